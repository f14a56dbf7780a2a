"""The options of a link or a serving program, and what the other side said."""

from __future__ import annotations

import os
import random
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from .wire import cluster_pb2 as pb

DEFAULT_BATCH = 262144
DEFAULT_MESSAGE = 64 << 20
DEFAULT_UNFINISHED = 64 << 20
DEFAULT_CALLS = 16384
DEFAULT_INTERVAL = 2.0

_PROCESS = re.compile(r"[A-Za-z0-9_.-]{1,255}")
#: This life of the process, chosen when the package is first imported.
INCARNATION = random.SystemRandom().randrange(1, 1 << 32)


def default_process() -> str:
    """Host name and process id, with '-' for what a process name cannot have."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", f"{socket.gethostname()}-{os.getpid()}")[-255:]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of Link and Serve. Times are seconds, sizes bytes.

    Attributes:
        process: this process's name, for logs and for handlers that ask who
            calls: letters, digits, '_', '-' and '.'. Default: host and pid.
        credentials: TLS; None is plaintext.
        metadata: sent when the stream opens, for a token. Not for calls.
        heartbeat_interval: the longest time for which this side sends nothing.
        connect_timeout: bounds dial, hello and acceptance together.
        backoff_min, backoff_max: the pauses after failed dials: exponential,
            with jitter.
        max_batch_bytes: the longest gRPC message taken, 64 KiB to 1 MiB.
        max_message_bytes: the largest payload taken in one message.
        max_unfinished_bytes: bounds the large messages that have begun and not
            ended, by their total sizes.
        max_calls: Serve only: how many calls it takes at once.
        line_calls: how many calls may wait for the link.
        line_push_bytes: how many bytes of pushes may wait for the link.
        push_wait: how long a push waits for room among them.
        idle_time: Link only: how long an unused link stays. 0: for ever.
        channel_options: more options for the gRPC channel.
    """

    process: str = field(default_factory=default_process)
    credentials: grpc.ChannelCredentials | None = None
    metadata: Sequence[tuple[str, str | bytes]] = ()
    heartbeat_interval: float = DEFAULT_INTERVAL
    connect_timeout: float = 5.0
    backoff_min: float = 0.1
    backoff_max: float = 3.0
    max_batch_bytes: int = DEFAULT_BATCH
    max_message_bytes: int = DEFAULT_MESSAGE
    max_unfinished_bytes: int = DEFAULT_UNFINISHED
    max_calls: int = 1000
    line_calls: int = 16384
    line_push_bytes: int = 4 << 20
    push_wait: float = 1.0
    idle_time: float = 300.0
    channel_options: Sequence[tuple[str, object]] = ()

    def __post_init__(self) -> None:
        if not _PROCESS.fullmatch(self.process):
            raise ValueError(f"process {self.process[:80]!r}: a process name has 1 to 255 letters, digits, '_', '-' and '.'")
        if not 65536 <= self.max_batch_bytes <= 1 << 20:
            raise ValueError(f"max_batch_bytes {self.max_batch_bytes}: it is 65536 to 1048576")
        for name in ("heartbeat_interval", "connect_timeout", "backoff_min", "backoff_max", "max_message_bytes", "max_unfinished_bytes", "max_calls"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} {getattr(self, name)}: it has to be above 0")

    def hello(self, node: str, *, serve: bool = False) -> pb.Hello:
        """What this side says first."""
        return pb.Hello(
            version=1,
            process=self.process,
            node=node,
            incarnation=INCARNATION,
            heartbeat_interval_ms=max(1, round(self.heartbeat_interval * 1000)),
            max_batch_bytes=self.max_batch_bytes,
            max_message_bytes=self.max_message_bytes,
            max_unfinished_bytes=self.max_unfinished_bytes,
            max_calls=self.max_calls if serve else 0,
        )


@dataclass(frozen=True)
class Peer:
    """What the node said of itself."""

    process: str
    incarnation: int
    silence: float  #: it is dead after so many seconds without anything
    max_batch_bytes: int
    max_message_bytes: int
    max_unfinished_bytes: int
    max_calls: int


def peer_of(hello: pb.Hello) -> Peer:
    """Checks a hello. ValueError says what is wrong with it."""
    if hello.version != 1:
        raise ValueError(f"protocol version {hello.version} is not spoken here, only 1")
    if hello.incarnation == 0:
        raise ValueError("hello.incarnation is 0")
    if not _PROCESS.fullmatch(hello.process):
        raise ValueError(f"hello.process {hello.process[:80]!r} is no process name")
    return Peer(
        process=hello.process,
        incarnation=hello.incarnation,
        silence=max(6.0, 3 * (hello.heartbeat_interval_ms or DEFAULT_INTERVAL * 1000) / 1000),
        max_batch_bytes=min(max(hello.max_batch_bytes or DEFAULT_BATCH, 65536), 1 << 20),
        max_message_bytes=hello.max_message_bytes or DEFAULT_MESSAGE,
        max_unfinished_bytes=hello.max_unfinished_bytes or DEFAULT_UNFINISHED,
        max_calls=hello.max_calls or DEFAULT_CALLS,
    )
