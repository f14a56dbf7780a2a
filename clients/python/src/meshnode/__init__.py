"""Call the services of a meshnode cluster, and answer as one, from asyncio.

    import meshnode

    async with meshnode.Link("127.0.0.1:2528", node="db") as db:
        value = await db.call("@sdb", "GET", b"greeting", timeout=5)

Link calls the services of one node. Serve answers under a name of a node, for
a program that cannot listen. Every error says what is known of the message's
execution: NotSent, Rejected, MaybeExecuted or HandlerFailed.
"""

from .errors import HandlerFailed, MaybeExecuted, MeshError, Metadata, NotSent, Rejected, StatusError, Verdict
from .link import Call, Link, Reply, Stats
from .options import Options, Peer
from .serve import Handler, Request, Serve

__version__ = "0.1.0"

__all__ = [
    "Call",
    "Handler",
    "HandlerFailed",
    "Link",
    "MaybeExecuted",
    "MeshError",
    "Metadata",
    "NotSent",
    "Options",
    "Peer",
    "Rejected",
    "Reply",
    "Request",
    "Serve",
    "Stats",
    "StatusError",
    "Verdict",
]
