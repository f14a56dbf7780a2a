"""Calls db@sdb over a link of its own: python call.py 127.0.0.1:2528"""

import asyncio
import sys

import meshnode


async def main() -> None:
    async with meshnode.Link(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:2528", node="db") as db:
        try:
            await db.call("@sdb", "SET", b"greeting=hello", timeout=5)
            print((await db.call("@sdb", "GET", b"greeting", timeout=5)).decode())
        except meshnode.MeshError as e:
            print(f"{e.message} ({e.verdict.value}, {e.code.name})", file=sys.stderr)
            sys.exit(1)


asyncio.run(main())
