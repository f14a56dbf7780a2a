"""A node in this process, for tests: a grpc.aio server that answers by a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import grpc.aio

from meshnode.wire import cluster_pb2 as pb


class End:
    """The node's end of one stream."""

    def __init__(self, context: grpc.aio.ServicerContext) -> None:  # type: ignore[type-arg]
        self.context = context
        self.frames: list[pb.Frame] = []

    async def next(self) -> pb.Frame | None:
        """The next frame that is no heartbeat; None at the half-close."""
        while True:
            while self.frames:
                frame = self.frames.pop(0)
                if frame.WhichOneof("body") != "heartbeat":
                    return frame
            data = await self.context.read()
            if data is grpc.aio.EOF:
                return None
            self.frames += pb.LinkRequest.FromString(data).frames

    async def say(self, *frames: pb.Frame) -> None:
        await self.context.write(pb.LinkResponse(frames=frames).SerializeToString())

    async def greet(self, **fields: object) -> pb.Hello:
        hello = await self.next()
        assert hello is not None
        await self.say(pb.Frame(hello=pb.Hello(version=1, process="node", incarnation=7, **fields)))  # type: ignore[arg-type]
        return hello.hello


Script = Callable[[End], Awaitable[None]]


class Node:
    """Listens at a port of its own; each stream runs the script."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.streams = 0
        self.errors: list[BaseException] = []
        self.server = grpc.aio.server()
        self.server.add_generic_rpc_handlers([_Handlers(self)])
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    async def __aenter__(self) -> Node:
        await self.server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.stop(0)
        if self.errors:
            raise self.errors[0]

    async def run(self, _: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:  # type: ignore[type-arg]
        self.streams += 1
        try:
            await self.script(End(context))
        except AssertionError as e:
            self.errors.append(e)
            raise
        except asyncio.CancelledError:
            raise


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, node: Node) -> None:
        self.node = node

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]
        return grpc.stream_stream_rpc_method_handler(self.node.run)


async def echo(end: End) -> None:
    """A script: answers every call with its payload."""
    await end.greet()
    while (frame := await end.next()) is not None:
        if frame.WhichOneof("body") == "request" and not frame.request.push:
            await end.say(pb.Frame(session=frame.session, reply=pb.Reply(payload=frame.request.payload)))
