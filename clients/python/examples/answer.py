"""Answers as @model of a node that takes programs:

    meshnode serve --node ml=127.0.0.1:2530 --open ml --allow-serve
    python answer.py 127.0.0.1:2530
    meshnode call --node ml=127.0.0.1:2530 ml@model UPPER hello
"""

import asyncio
import signal
import sys

import grpc

import meshnode


async def model(request: meshnode.Request) -> bytes:
    if request.method == "UPPER":
        return request.payload.upper()
    raise meshnode.StatusError(grpc.StatusCode.UNIMPLEMENTED, f"the model has no method {request.method!r}")


async def main() -> None:
    async with meshnode.Serve(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:2530") as program:
        handle = await program.register("@model", model, shared=True)
        print(f"@model is served, handle {handle:016x}", flush=True)
        stop = asyncio.Event()
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
        await stop.wait()


asyncio.run(main())
