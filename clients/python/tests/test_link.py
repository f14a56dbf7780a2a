"""Link in a program: tasks that are cancelled, lines that are full, many at once.

What goes over the wire is the conformance kit's to test."""

import asyncio

import grpc
import pytest
from node import End, Node, echo

import meshnode
from meshnode.wire import cluster_pb2 as pb


async def test_calls_of_many_tasks() -> None:
    async with Node(echo) as node, meshnode.Link(node.address, "db") as link:
        replies = await asyncio.gather(*(link.call("@sdb", "ECHO", str(n).encode(), timeout=10) for n in range(500)))
        assert replies == [str(n).encode() for n in range(500)]
        assert node.streams == 1 and link.stats.dials == 1


async def test_cancelling_the_task_cancels_the_call() -> None:
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def script(end: End) -> None:
        await end.greet()
        while (frame := await end.next()) is not None:
            seen.put_nowait(str(frame.WhichOneof("body")))

    async with Node(script) as node, meshnode.Link(node.address) as link:
        task = asyncio.create_task(link.call("@sdb", "WAIT"))
        assert await seen.get() == "request"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await seen.get() == "cancel"
        await link.close(0.1)


async def test_timeout_of_asyncio_is_a_cancel() -> None:
    async def script(end: End) -> None:
        await end.greet()
        while await end.next() is not None:
            pass

    async with Node(script) as node, meshnode.Link(node.address) as link:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await link.call("@sdb", "WAIT")
        await link.close(0.1)


async def test_a_full_line_refuses_calls() -> None:
    async def script(end: End) -> None:
        await end.greet(max_calls=1)
        while await end.next() is not None:
            pass

    async with Node(script) as node, meshnode.Link(node.address, options=meshnode.Options(line_calls=2)) as link:
        first = link.start("@sdb", "WAIT")
        await link.wait_ready(5)
        await asyncio.sleep(0.1)
        waiting = [link.start("@sdb", "WAIT") for _ in range(2)]
        with pytest.raises(meshnode.NotSent) as e:
            await link.call("@sdb", "WAIT")
        assert e.value.reason == "OVERLOADED" and e.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        waiting[0].cancel()  # frees its place
        another = link.start("@sdb", "WAIT", timeout=0.1)
        with pytest.raises(meshnode.NotSent) as e:
            await another
        assert e.value.reason == "DEADLINE_EXCEEDED"
        await link.close(0.1)
        with pytest.raises(meshnode.MaybeExecuted):
            await first
        with pytest.raises(meshnode.NotSent) as e:
            await waiting[1]
        assert e.value.reason == "CLOSED"


async def test_a_push_waits_for_room_and_then_fails() -> None:
    link = meshnode.Link("127.0.0.1:1", options=meshnode.Options(line_push_bytes=1000, push_wait=0.2, backoff_min=30, backoff_max=30))
    first = asyncio.create_task(link.push("@sdb", "A", bytes(1000), wait_up=True))
    await asyncio.sleep(0.1)
    with pytest.raises(meshnode.NotSent) as e:
        await link.push("@sdb", "B", b"x", wait_up=True)
    assert e.value.reason == "OVERLOADED"
    waiting = asyncio.create_task(link.push("@sdb", "C", b"x", wait_up=True))
    await asyncio.sleep(0.05)
    first.cancel()  # makes room
    await asyncio.wait([first])
    await link.close(0.1)
    with pytest.raises(meshnode.NotSent) as e:
        await waiting
    assert e.value.reason in ("CLOSED", "OVERLOADED")


async def test_close_twice_and_use_after_it() -> None:
    async with Node(echo) as node:
        link = meshnode.Link(node.address)
        assert await link.call("@sdb", "ECHO", b"x") == b"x"
        await asyncio.gather(link.close(), link.close())
        await link.close()
        for attempt in (link.call("@sdb"), link.push("@sdb"), link.query("@sdb"), link.wait_ready()):
            with pytest.raises(meshnode.NotSent) as e:
                await attempt
            assert e.value.reason == "CLOSED"


async def test_an_idle_link_closes_and_comes_back() -> None:
    async with Node(echo) as node, meshnode.Link(node.address, options=meshnode.Options(idle_time=0.1)) as link:
        assert await link.call("@sdb", "ECHO", b"1") == b"1"
        async with asyncio.timeout(5):
            while link.peer is not None:
                await asyncio.sleep(0.05)
        assert await link.call("@sdb", "ECHO", b"2") == b"2"
        assert node.streams == 2


async def test_wait_ready_tells_of_the_node() -> None:
    async with Node(echo) as node, meshnode.Link(node.address) as link:
        peer = await link.wait_ready(5)
        assert (peer.process, peer.incarnation) == ("node", 7)
    lonely = meshnode.Link("127.0.0.1:1")
    with pytest.raises(TimeoutError):
        await lonely.wait_ready(0.3)
    await lonely.close()


async def test_query_asks_the_process() -> None:
    async def script(end: End) -> None:
        await end.greet()
        frame = await end.next()
        assert frame is not None and frame.request.WhichOneof("address") == "handle" and frame.request.handle == 0 and frame.request.method == "Query"
        from meshnode.wire import process_pb2

        assert process_pb2.QueryRequest.FromString(frame.request.payload).name == "@sdb"
        await end.say(pb.Frame(session=frame.session, reply=pb.Reply(payload=process_pb2.QueryResponse(handle=0xABC).SerializeToString())))
        await end.next()

    async with Node(script) as node, meshnode.Link(node.address) as link:
        assert await link.query("@sdb", timeout=5) == 0xABC
