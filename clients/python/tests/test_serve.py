"""Serve in a program. What goes over the wire is the conformance kit's to test."""

import asyncio

import grpc
import pytest
from node import End, Node

import meshnode
from meshnode.wire import cluster_pb2 as pb


def request(session: int, payload: bytes = b"", **fields: object) -> pb.Frame:
    return pb.Frame(session=session, request=pb.Request(name="@model", payload=payload, **fields))  # type: ignore[arg-type]


async def registered(end: End) -> None:
    await end.greet()
    frame = await end.next()
    assert frame is not None and frame.register.name == "@model"
    await end.say(pb.Frame(session=frame.session, registered=pb.Registered(handle=0x700000001)))


async def upper(r: meshnode.Request) -> bytes:
    return r.payload.upper()


async def test_a_program_answers() -> None:
    async def script(end: End) -> None:
        await registered(end)
        await end.say(request(1, b"hello"))
        frame = await end.next()
        assert frame is not None and frame.session == 1 and frame.reply.payload == b"HELLO"
        frame = await end.next()
        assert frame is not None and frame.goaway.last_session == 1
        assert await end.next() is None

    async with Node(script) as node:
        async with meshnode.Serve(node.address) as program:
            assert await program.register("model", upper) == 0x700000001
            with pytest.raises(ValueError, match="served already"):
                await program.register("@model", upper)
            await asyncio.sleep(0.2)
        await asyncio.wait_for(program.wait(), 1)
        with pytest.raises(meshnode.NotSent):
            await program.register("@other", upper)


async def test_one_after_another() -> None:
    running = 0
    order: list[bytes] = []

    async def handler(r: meshnode.Request) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0.01)
        order.append(r.payload)
        running -= 1

    async def script(end: End) -> None:
        await registered(end)
        await end.say(*(request(n, str(n).encode()) for n in range(1, 11)))
        for n in range(1, 11):
            frame = await end.next()
            assert frame is not None and frame.session == n and frame.WhichOneof("body") == "reply"
        await end.next()

    async with Node(script) as node, meshnode.Serve(node.address) as program:
        await program.register("@model", handler, concurrency=1)
        async with asyncio.timeout(5):
            while len(order) < 10:
                await asyncio.sleep(0.01)
    assert order == [str(n).encode() for n in range(1, 11)]


async def test_a_call_whose_turn_comes_too_late_is_not_started() -> None:
    started: list[bytes] = []

    async def handler(r: meshnode.Request) -> None:
        started.append(r.payload)
        await asyncio.sleep(0.3)

    async def script(end: End) -> None:
        await registered(end)
        await end.say(request(1, b"first"), request(2, b"late", time_left_us=50000))
        frame = await end.next()
        assert frame is not None and frame.session == 2 and frame.failure.reason == pb.REASON_EXPIRED
        frame = await end.next()
        assert frame is not None and frame.session == 1
        await end.next()

    async with Node(script) as node, meshnode.Serve(node.address) as program:
        await program.register("@model", handler, concurrency=1)
        await asyncio.sleep(0.6)
    assert started == [b"first"]


async def test_a_flood_of_pushes_stops_the_reading() -> None:
    stopped = asyncio.Event()
    let = asyncio.Event()
    done = 0

    async def handler(r: meshnode.Request) -> None:
        nonlocal done
        await let.wait()
        done += 1

    async def script(end: End) -> None:
        await registered(end)
        for n in range(1, 31):
            await end.say(request(n, push=True))
        while True:
            for frame in pb.LinkRequest.FromString(await end.context.read()).frames:
                if frame.heartbeat.reading_stopped:
                    stopped.set()
                elif frame.WhichOneof("body") == "goaway":
                    return

    async with Node(script) as node, meshnode.Serve(node.address, meshnode.Options(max_calls=10)) as program:
        await program.register("@model", handler)
        await asyncio.wait_for(stopped.wait(), 5)
        await asyncio.sleep(0.1)
        assert done == 0
        let.set()
        async with asyncio.timeout(5):
            while done < 30:
                await asyncio.sleep(0.01)


async def test_a_refused_name() -> None:
    async def script(end: End) -> None:
        await end.greet()
        frame = await end.next()
        assert frame is not None
        await end.say(pb.Frame(session=frame.session, failure=pb.Failure(reason=pb.REASON_NAME_TAKEN, code=6, message="it is taken")))
        await end.next()

    async with Node(script) as node, meshnode.Serve(node.address) as program:
        with pytest.raises(meshnode.Rejected) as e:
            await program.register("@model", upper)
        assert e.value.reason == "NAME_TAKEN" and e.value.code is grpc.StatusCode.ALREADY_EXISTS


async def test_register_waits_for_the_node() -> None:
    program = meshnode.Serve("127.0.0.1:1")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await program.register("@model", upper)
    await program.close()


async def test_a_cancel_in_the_same_message_is_answered() -> None:
    started: list[bytes] = []
    answered = asyncio.Event()

    async def handler(r: meshnode.Request) -> bytes:
        started.append(r.payload)
        return r.payload

    async def script(end: End) -> None:
        await registered(end)
        await end.say(request(1, b"given up"), pb.Frame(session=1, cancel=pb.Cancel()), request(2, b"next"))
        frame = await end.next()
        assert frame is not None and frame.session == 1 and frame.failure.reason == pb.REASON_CANCELLED
        frame = await end.next()
        assert frame is not None and frame.session == 2 and frame.reply.payload == b"next"
        answered.set()
        frame = await end.next()
        assert frame is not None and frame.goaway.last_session == 2
        assert await end.next() is None

    async with Node(script) as node:
        program = meshnode.Serve(node.address)
        await program.register("@model", handler)
        try:
            await asyncio.wait_for(answered.wait(), 20)
        except TimeoutError:
            pass  # the script tells what was missing
        before = asyncio.get_running_loop().time()
        await program.close()
        assert asyncio.get_running_loop().time() - before < 5  # nothing that was taken stays
    assert started == [b"next"]


async def test_a_register_that_is_given_up_is_taken_back() -> None:
    asked, taken_back = asyncio.Event(), asyncio.Event()

    async def script(end: End) -> None:
        await end.greet()
        first = await end.next()
        assert first is not None and first.register.name == "@model"
        asked.set()
        second = await end.next()
        assert second is not None and second.unregister.name == "@model"
        await end.say(pb.Frame(session=first.session, registered=pb.Registered(handle=1)), pb.Frame(session=second.session, registered=pb.Registered()))
        third = await end.next()
        assert third is not None and third.register.name == "@model"
        await end.say(pb.Frame(session=third.session, registered=pb.Registered(handle=2)))
        taken_back.set()
        await end.next()

    async with Node(script) as node, meshnode.Serve(node.address) as program:
        given_up = asyncio.create_task(program.register("@model", upper))
        await asyncio.wait_for(asked.wait(), 20)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert await asyncio.wait_for(program.register("@model", upper), 20) == 2
        assert taken_back.is_set()


async def test_unregister_while_the_stream_breaks() -> None:
    registers = 0

    async def script(end: End) -> None:
        nonlocal registers
        await end.greet()
        while (frame := await end.next()) is not None:
            if frame.WhichOneof("body") == "unregister":
                return  # the stream ends
            registers += 1
            await end.say(pb.Frame(session=frame.session, registered=pb.Registered(handle=1)))

    async with Node(script) as node, meshnode.Serve(node.address) as program:
        await program.register("@model", upper)
        await asyncio.wait_for(program.unregister("@model"), 20)
        await asyncio.wait_for(program.register("@other", upper), 20)
        assert registers == 2  # @model did not come back
