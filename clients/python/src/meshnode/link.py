"""Link: calls and pushes to the services of one node."""

from __future__ import annotations

import asyncio
import enum
import re
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc

from ._backoff import Backoff
from ._joiner import Joiner, Spoilt
from ._limits import MAX_METHOD, PART_BYTES
from ._outlet import Larges, Parts
from ._stream import Batch, ConnectError, Stream, log
from .errors import (
    HandlerFailed,
    MaybeExecuted,
    MeshError,
    Metadata,
    NotSent,
    connect_failed,
    error_of,
    from_headers,
    link_broken,
    not_sent,
    to_headers,
)
from .options import Options, Peer
from .wire import cluster_pb2 as pb
from .wire import process_pb2

_LINK = "/mesh.v1.ClusterService/Link"
#: For so long after a goaway a failed dial is told to nobody.
_LEAVING = 30.0
#: What a message in the line counts beyond its payload.
_OVERHEAD = 256
_C = grpc.StatusCode


@dataclass(frozen=True)
class Reply:
    """The answer of a call.

    Attributes:
        payload: what the handler returned.
        headers, trailers: what it set.
    """

    payload: bytes
    headers: Metadata = ()
    trailers: Metadata = ()


class _State(enum.Enum):
    IN_LINE = 1
    SENT = 2
    OVER = 3


class _Message:
    """A call or push on its way."""

    __slots__ = ("future", "headers", "due", "method", "name", "handle", "payload", "push", "state", "timer", "trace_tag", "wait_up", "session", "outlet", "target")

    def __init__(self, target: str, method: str, payload: bytes, push: bool) -> None:
        self.target, self.method, self.payload, self.push = target, method, payload, push
        self.name, self.handle = "", 0
        self.headers: list[pb.Header] = []
        self.trace_tag = ""
        self.wait_up = False
        self.due: float | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.state = _State.IN_LINE
        self.session = 0
        self.outlet: _Outlet | None = None
        #: A call: its Reply. A push: None, once it stands in the line of an open link.
        self.future: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()

    @property
    def size(self) -> int:
        return len(self.payload) + _OVERHEAD

    def settle(self, result: Reply | None) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: MeshError) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # whoever waits is told; nobody has to

    def frame(self, now: float) -> pb.Frame:
        """The first frame, with the session that it has now."""
        request = pb.Request(method=self.method, push=self.push, headers=self.headers, trace_tag=self.trace_tag)
        if self.name:
            request.name = self.name
        else:
            request.handle = self.handle
        if self.due is not None:
            request.time_left_us = max(1, int((self.due - now) * 1e6))
        if len(self.payload) > PART_BYTES:
            request.payload, request.total_size = self.payload[:PART_BYTES], len(self.payload)
        else:
            request.payload = self.payload
        return pb.Frame(session=self.session, request=request)


class Call:
    """A call that was begun by Link.start. Await it for its Reply.

    An exception is always a MeshError, but where the awaiting task itself is
    cancelled: then the call is cancelled too.
    """

    def __init__(self, link: Link, message: _Message) -> None:
        self._link, self._message = link, message

    def cancel(self) -> None:
        """Gives the call up: its handler's context ends, and awaiting it raises
        NotSent or MaybeExecuted with the code CANCELLED."""
        self._link._give_up(self._message, "CANCELLED", _C.CANCELLED, "the call was cancelled")

    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._message.future.done()

    def __await__(self) -> Generator[Any, None, Reply]:
        return self._wait().__await__()

    async def _wait(self) -> Reply:
        try:
            reply = await asyncio.shield(self._message.future)
        except asyncio.CancelledError:
            self.cancel()
            raise
        assert reply is not None
        return reply


@dataclass
class Stats:
    """What a link counts. It is the link's own: do not change it.

    Attributes:
        dials: streams that were tried; dials_failed of them did not open.
        stray: frames that were of no call, or of one that is over.
        pushes_lost: pushes that were accepted and certainly or possibly did
            not arrive, because a stream broke or the node did not take them.
    """

    dials: int = 0
    dials_failed: int = 0
    stray: int = 0
    pushes_lost: int = 0


class _Outlet:
    """One open stream of a link."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.session = 0
        self.flights: dict[int, _Message] = {}  # calls without an outcome
        #: Calls that were given up and are not answered yet; of a large answer
        #: that has begun, how many bytes are to come.
        self.owed: dict[int, int | None] = {}
        self.pushes = 0  # sent; nothing says when they arrived
        self.push_sessions: deque[int] = deque(maxlen=16384)
        self.cancels: deque[int] = deque()
        self.larges = Larges(stream.peer.max_unfinished_bytes)
        self.joiner = Joiner("reply")
        self.begun: dict[int, pb.Reply] = {}  # first frames of large replies
        self.leaving = False  # it said goaway
        self.retiring = False  # this side goes: half-close when all is answered
        self.used = stream.opened

    @property
    def inflight(self) -> int:
        return len(self.flights) + len(self.owed)

    def idle(self) -> bool:
        return not self.inflight and not self.larges and not self.cancels


class Link:
    """The services of one node, for one asyncio event loop.

    It opens its stream at the first message and again whenever it needs one;
    until then, and while the node's limits are reached, messages stand in a line,
    first come first served. Every method is safe to use from many tasks.

        async with meshnode.Link("127.0.0.1:2528", node="db") as db:
            value = await db.call("@sdb", "GET", b"greeting", timeout=5)

    Args:
        address: "host:port" or "unix:path", as gRPC takes it.
        node: the name of the node, for its log. It answers under any.
        options: everything else.
    """

    def __init__(self, address: str, node: str = "", options: Options | None = None) -> None:
        self.address, self.node = address, node
        self.options = options or Options()
        self.stats = Stats()
        self._line: deque[_Message] = deque()
        self._line_calls = 0
        self._line_pushes = 0
        self._room: deque[tuple[_Message, asyncio.Future[None]]] = deque()
        self._current: _Outlet | None = None
        self._old: list[_Outlet] = []
        self._dialling: asyncio.Task[None] | None = None
        self._backoff = Backoff(self.options)
        self._left = float("-inf")  # until when the node counts as leaving
        self._closing = False
        self._closed = False
        self._changed = asyncio.Event()  # set when a stream opens or ends

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    # -- for users

    @property
    def peer(self) -> Peer | None:
        """What the node said of itself; None while there is no stream."""
        return self._current.stream.peer if self._current else None

    async def wait_ready(self, timeout: float | None = None) -> Peer:
        """Opens the stream, if need be, and waits for it. TimeoutError when it
        takes longer than timeout seconds."""
        async with asyncio.timeout(timeout):
            while self._current is None:
                if self._closing:
                    raise self._closed_error()
                self._changed.clear()
                self._kick(wanted=True)
                await self._changed.wait()
            return self._current.stream.peer

    async def call(
        self,
        target: str,
        method: str = "",
        payload: bytes = b"",
        *,
        timeout: float | None = None,
        headers: Metadata = (),
        trace_tag: str = "",
        wait_up: bool = False,
    ) -> bytes:
        """Sends a request and returns the payload of its reply.

        Cancelling the task that waits cancels the call.

        Args:
            target: "@name", ".name", or ":" and the 16 hex digits of a handle.
            method: free text for plain handlers; "/package.Service/Method" for
                services with a schema.
            payload: at most what the node takes (64 MiB unless it says less).
            timeout: the deadline, in seconds; it travels with the call. None: none.
            headers: metadata for the handler, 8 KiB together.
            trace_tag: a skynet trace tag.
            wait_up: stay in the line when the node cannot be reached, until the
                deadline. Without it the call fails with the dial: NotSent.

        Raises:
            NotSent, Rejected, MaybeExecuted, HandlerFailed: see MeshError.
        """
        reply = await self.start(target, method, payload, timeout=timeout, headers=headers, trace_tag=trace_tag, wait_up=wait_up)
        return reply.payload

    def start(
        self,
        target: str,
        method: str = "",
        payload: bytes = b"",
        *,
        timeout: float | None = None,
        headers: Metadata = (),
        trace_tag: str = "",
        wait_up: bool = False,
    ) -> Call:
        """Begins a call and returns at once: calls that are started one after
        another leave in that order. Await the result for its Reply, which has
        headers and trailers too. Arguments and errors are those of call."""
        message = _Message(target, method, bytes(payload), False)
        message.wait_up = wait_up
        if self._prepare(message, headers, trace_tag):
            if timeout is not None:
                loop = asyncio.get_running_loop()
                message.due = loop.time() + timeout
                message.timer = loop.call_at(message.due, self._give_up, message, "DEADLINE_EXCEEDED", _C.DEADLINE_EXCEEDED, f"no answer within {timeout:g} s")
            if self._line_calls >= self.options.line_calls:
                self._finish(message, not_sent("OVERLOADED", _C.RESOURCE_EXHAUSTED, f"overloaded: {self._line_calls} calls wait for {self.address}"))
            else:
                self._enter(message)
        return Call(self, message)

    async def push(self, target: str, method: str = "", payload: bytes = b"", *, headers: Metadata = (), trace_tag: str = "", wait_up: bool = False) -> None:
        """Sends a one-way message. It returns when the message stands in the line
        of an open stream; what happens later is not reported. Pushes, and a call
        after them, reach a target in the order in which they were made.

        Raises:
            NotSent: the node cannot be reached, there was no room for
                Options.push_wait seconds, or a rule is broken.
        """
        message = _Message(target, method, bytes(payload), True)
        message.wait_up = wait_up
        if self._prepare(message, headers, trace_tag):
            if self._line_pushes >= self.options.line_push_bytes or self._room:
                await self._wait_for_room(message)
            else:
                self._enter(message)
        try:
            await asyncio.shield(message.future)
        except asyncio.CancelledError:
            if message.state is _State.IN_LINE:
                self._finish(message, not_sent("CANCELLED", _C.CANCELLED, "the push was cancelled"))
            raise

    async def query(self, name: str, *, timeout: float | None = None, wait_up: bool = False) -> int:
        """The handle of a name ("@sdb"), for targets like f":{handle:016x}". It is
        Rejected with NAME_NOT_FOUND where no service has the name."""
        message = process_pb2.QueryRequest(name=name)
        payload = await self.call(":" + "0" * 16, "Query", message.SerializeToString(), timeout=timeout, wait_up=wait_up)
        return process_pb2.QueryResponse.FromString(payload).handle

    async def close(self, timeout: float = 10.0) -> None:
        """Ends the link in good order: what was called gets its answer, and what
        was pushed is placed. After timeout seconds it is cut. New messages fail:
        NotSent, CLOSED. It is safe to call twice."""
        self._closing = True
        for message, room in list(self._room):
            self._finish(message, self._closed_error())
            if not room.done():
                room.set_result(None)
        try:
            async with asyncio.timeout(timeout):
                while self._line or self._current or self._old:
                    self._changed.clear()
                    self._retire()
                    await self._changed.wait()
        except TimeoutError:
            pass
        finally:
            self._cut()

    # -- the line

    def _prepare(self, message: _Message, headers: Metadata, trace_tag: str) -> bool:
        """Checks a message. One that breaks a rule fails at once."""
        message.trace_tag = trace_tag
        try:
            if self._closing:
                raise self._closed_error()
            message.name, message.handle = parse_target(message.target)
            if len(message.method.encode()) > MAX_METHOD:
                raise ValueError(f"the method has more than {MAX_METHOD} bytes")
            message.headers = to_headers(headers)
        except MeshError as e:
            self._finish(message, e)
        except ValueError as e:
            self._finish(message, not_sent("INVALID_REQUEST", _C.INVALID_ARGUMENT, f"invalid request: {e}"))
        else:
            return True
        return False

    def _closed_error(self) -> NotSent:
        return not_sent("CLOSED", _C.UNAVAILABLE, f"the link to {self.address} is closed")

    async def _wait_for_room(self, message: _Message) -> None:
        """Waits until the line has room for a push, and lets it enter."""
        room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (message, room)
        self._room.append(entry)
        try:
            async with asyncio.timeout(self.options.push_wait):
                await room
        except TimeoutError:
            self._finish(message, not_sent("OVERLOADED", _C.RESOURCE_EXHAUSTED, f"overloaded: {self._line_pushes} bytes of pushes wait for {self.address}"))
        finally:
            if not room.done() or room.cancelled():
                self._room.remove(entry)

    def _enter(self, message: _Message) -> None:
        self._line.append(message)
        self._count(message, 1)
        if message.push and self._current is not None:
            message.settle(None)
        self._kick()

    def _count(self, message: _Message, n: int) -> None:
        if message.push:
            self._line_pushes += n * message.size
            while self._room and self._line_pushes < self.options.line_push_bytes and n < 0:
                waiting, room = self._room.popleft()
                if not room.done():
                    room.set_result(None)
                    self._enter(waiting)
        else:
            self._line_calls += n

    def _leave_line(self, message: _Message) -> None:
        """Takes a message out of the line's counts; its place is cleaned later."""
        self._count(message, -1)

    def _finish(self, message: _Message, error: MeshError | None = None, reply: Reply | None = None) -> None:
        """Gives a message its one outcome."""
        if message.state is _State.OVER:
            return
        if message.timer is not None:
            message.timer.cancel()
        message.state = _State.OVER
        if error is not None:
            message.fail(error)
        else:
            message.settle(reply)

    def _give_up(self, message: _Message, reason: str, code: grpc.StatusCode, text: str) -> None:
        """The caller waits no longer."""
        if message.state is _State.OVER:
            return
        if message.state is _State.IN_LINE:
            if message in self._line:
                self._line.remove(message)
                self._leave_line(message)
            self._finish(message, NotSent(text, reason=reason, code=code))
            self._changed.set()
            return
        outlet, session = message.outlet, message.session
        self._finish(message, MaybeExecuted(text, reason=reason, code=code))
        if outlet is not None and outlet.flights.pop(session, None) is not None:
            self._disown(outlet, session)

    def _disown(self, outlet: _Outlet, session: int) -> None:
        """Tells the node that nobody waits for a call that it has."""
        outlet.larges.drop(session)
        outlet.owed[session] = outlet.joiner.drop(session)
        outlet.begun.pop(session, None)
        outlet.cancels.append(session)
        outlet.stream.wake()

    # -- dialling

    def _kick(self, wanted: bool = False) -> None:
        """Sees to it that the line moves."""
        if self._current is not None:
            self._current.stream.wake()
        elif not self._closed and self._dialling is None and (self._line or wanted):
            self._dialling = asyncio.create_task(self._dial(), name="meshnode dial")

    async def _dial(self) -> None:
        """Dials until there is a stream, or nobody waits for one."""
        first = True
        try:
            while (self._line or first) and not self._closed:
                first = False
                await self._backoff.wait()
                self.stats.dials += 1
                try:
                    stream = await Stream.open(self.address, _LINK, self.options.hello(self.node), self.options)
                except ConnectError as e:
                    self._dial_failed(str(e))
                    continue
                self._dialled(stream)
                return
        finally:
            self._dialling = None
            self._changed.set()
            if self._line and self._current is None:
                self._kick()

    def _dial_failed(self, cause: str) -> None:
        self.stats.dials_failed += 1
        log.warning("connect %s: %s", self.address, cause)
        loop = asyncio.get_running_loop()
        self._backoff.failed()
        if loop.time() < self._left and not self._closing:
            return  # the node said that it leaves: its callers wait
        for message in list(self._line):
            if not message.wait_up or self._closing:
                self._line.remove(message)
                self._leave_line(message)
                self._finish(message, connect_failed(self.address, cause))

    def _dialled(self, stream: Stream) -> None:
        outlet = _Outlet(stream)
        self._current = outlet
        stream.fill = lambda batch: self._fill(outlet, batch)
        stream.take = lambda frame: self._take(outlet, frame)
        stream.ended = lambda cause: self._lost(outlet, cause)
        stream.tick = lambda now: self._tick(outlet, now)
        stream.start()
        for message in self._line:
            if message.push:
                message.settle(None)
        if self._closing:
            self._retire()
        stream.wake()
        self._changed.set()

    # -- sending

    def _fill(self, outlet: _Outlet, batch: Batch) -> bool:
        """What is ready to leave on a stream: cancels, small messages, parts."""
        while outlet.cancels:
            if not batch.add(pb.Frame(session=outlet.cancels[0], cancel=pb.Cancel())):
                return False
            outlet.cancels.popleft()
        if outlet is self._current:
            self._fill_from_line(outlet, batch)
        outlet.larges.fill(batch)
        return outlet.retiring and outlet.idle() and not (outlet is self._current and self._line)

    def _fill_from_line(self, outlet: _Outlet, batch: Batch) -> None:
        """Begins messages in the order of the line. A large one that may not begin
        yet is passed by small ones; a large push not by those to its target."""
        peer, held = outlet.stream.peer, set(outlet.larges.held)
        now = asyncio.get_running_loop().time()
        waits = False  # a large one does
        stay: list[_Message] = []
        while self._line:
            message = self._line[0]
            size = len(message.payload)
            large = size > PART_BYTES
            if size > peer.max_message_bytes or large and max(size, 65536) > peer.max_unfinished_bytes:
                self._line.popleft()
                self._leave_line(message)
                self._finish(message, not_sent("TOO_LARGE", _C.RESOURCE_EXHAUSTED, f"too large: {size} bytes; {self.address} takes {min(peer.max_message_bytes, peer.max_unfinished_bytes)}"))
                continue
            if not message.push and outlet.inflight >= peer.max_calls:
                break
            if message.target in held or large and (waits or not outlet.larges.fits(size)):
                waits = waits or large
                if large and message.push:
                    held.add(message.target)
                stay.append(self._line.popleft())
                continue
            message.session = outlet.session + 1
            if not batch.add(message.frame(now)):
                break
            self._line.popleft()
            self._leave_line(message)
            self._sent(outlet, message, large)
            if large and message.push:
                held.add(message.target)
        self._line.extendleft(reversed(stay))

    def _sent(self, outlet: _Outlet, message: _Message, large: bool) -> None:
        outlet.session += 1
        outlet.used = asyncio.get_running_loop().time()
        message.outlet = outlet
        if large:
            outlet.larges.begin(Parts(message.session, message.payload, message.target if message.push else None))
        if message.push:
            outlet.push_sessions.append(message.session)
            self._finish(message)
        else:
            message.state = _State.SENT
            outlet.flights[message.session] = message

    # -- receiving

    def _take(self, outlet: _Outlet, frame: pb.Frame) -> None:
        kind, session = frame.WhichOneof("body"), frame.session
        if kind == "goaway":
            self._goaway(outlet, frame.goaway)
        elif kind == "reply":
            self._reply(outlet, session, frame.reply)
        elif kind == "failure":
            self._failure(outlet, session, frame.failure)
        elif kind == "part":
            self._part(outlet, session, frame.part.payload)
        else:
            self.stats.stray += 1
            return
        if outlet is not self._current or outlet.retiring:
            outlet.stream.wake()

    def _answered(self, outlet: _Outlet, session: int) -> _Message | None:
        """The call that an answer is for, if somebody waits for it."""
        outlet.larges.drop(session)
        outlet.joiner.drop(session)
        outlet.begun.pop(session, None)
        outlet.stream.wake()  # there is room for one more
        if session in outlet.owed:
            del outlet.owed[session]
            return None
        message = outlet.flights.pop(session, None)
        if message is None:
            self.stats.stray += 1
        return message

    def _reply(self, outlet: _Outlet, session: int, reply: pb.Reply) -> None:
        if session in outlet.owed and reply.total_size:
            outlet.owed[session] = reply.total_size - len(reply.payload)
            return  # nobody wants it, but its place is free only when it has come
        message = outlet.flights.get(session)
        size = reply.total_size or len(reply.payload)
        if message is not None and (size > self.options.max_message_bytes or reply.total_size and not outlet.joiner.fits(size, self.options.max_unfinished_bytes)):
            self._spoilt(outlet, session, HandlerFailed(f"reply too large: {size} bytes; this side takes {self.options.max_message_bytes}", reason="REPLY_TOO_LARGE", code=_C.OUT_OF_RANGE), bool(reply.total_size))
        elif message is not None and reply.total_size:
            outlet.larges.drop(session)
            try:
                outlet.joiner.begin(session, reply.total_size, reply.payload, asyncio.get_running_loop().time())
            except Spoilt as e:
                self._spoilt(outlet, session, _invalid(e))
                return
            outlet.begun[session] = pb.Reply(headers=reply.headers, trailers=reply.trailers)
        elif (answered := self._answered(outlet, session)) is not None:
            self._finish(answered, reply=_reply_of(reply, reply.payload))

    def _part(self, outlet: _Outlet, session: int, payload: bytes) -> None:
        if session not in outlet.begun:
            left = outlet.owed.get(session)
            if left is None:
                self.stats.stray += 1
            elif left > len(payload):
                outlet.owed[session] = left - len(payload)
            else:
                self._answered(outlet, session)
            return
        try:
            whole = outlet.joiner.part(session, payload, asyncio.get_running_loop().time())
        except Spoilt as e:
            self._spoilt(outlet, session, _invalid(e))
            return
        if whole is not None:
            begun = outlet.begun[session]
            message = self._answered(outlet, session)
            if message is not None:
                self._finish(message, reply=_reply_of(begun, whole))

    def _spoilt(self, outlet: _Outlet, session: int, error: MeshError, more: bool = True) -> None:
        """A reply that cannot be taken fails its call alone. Where more of it
        would come the node is told to stop."""
        message = outlet.flights.pop(session)
        self._finish(message, error)
        if more:
            self._disown(outlet, session)
        else:
            outlet.larges.drop(session)
            outlet.stream.wake()

    def _failure(self, outlet: _Outlet, session: int, failure: pb.Failure) -> None:
        message = self._answered(outlet, session)
        if message is None:
            return
        now = asyncio.get_running_loop().time()
        if failure.reason == pb.REASON_DRAINING and outlet.leaving and now < self._left and not self._closing:
            self._put_back([message])
        else:
            self._finish(message, error_of(failure))

    # -- ends

    def _goaway(self, outlet: _Outlet, goaway: pb.Goaway) -> None:
        """The node leaves: what it did not take is sent again on the next stream."""
        if outlet.leaving:
            return
        log.info("%s leaves: %s", self.address, goaway.message)
        outlet.leaving = True
        loop = asyncio.get_running_loop()
        if outlet is self._current:
            self._current = None
            self._old.append(outlet)
            self._left = loop.time() + _LEAVING
            if goaway.last_session == 0 and loop.time() - outlet.stream.opened < self.options.backoff_min:
                self._backoff.failed()  # it opened only to leave
            else:
                self._backoff.worked()
        last = goaway.last_session
        self.stats.pushes_lost += sum(1 for s in outlet.push_sessions if s > last)
        back = [outlet.flights.pop(s) for s in sorted(outlet.flights) if s > last]
        outlet.owed = {s: left for s, left in outlet.owed.items() if s <= last}
        for session in [m.session for m in back] + [s for s in outlet.push_sessions if s > last]:
            outlet.larges.drop(session)
        outlet.cancels = deque(s for s in outlet.cancels if s <= last)
        if self._closing and back:
            for message in back:
                self._finish(message, not_sent("GOAWAY", _C.UNAVAILABLE, f"{self.address} left and did not take it"))
        else:
            self._put_back(back)
        self._changed.set()

    def _put_back(self, messages: list[_Message]) -> None:
        """Puts calls that certainly were not taken back at the head of the line."""
        for message in reversed(messages):
            message.state, message.outlet, message.session = _State.IN_LINE, None, 0
            self._line.appendleft(message)
            self._count(message, 1)
        self._kick()

    def _lost(self, outlet: _Outlet, cause: str | None) -> None:
        """A stream has ended."""
        orderly = cause is None and outlet.idle() and (outlet.leaving or outlet.stream.half_closed)
        text = cause or "the node ended the stream"
        if not orderly:
            log.warning("the link to %s broke: %s", self.address, text)
        for message in list(outlet.flights.values()):
            self._finish(message, link_broken(self.address, text))
        outlet.flights.clear()
        if outlet is self._current:
            self._current = None
            now = asyncio.get_running_loop().time()
            if not orderly and now - outlet.stream.opened < self.options.backoff_max:
                self._backoff.failed()  # a node that dies again and again is not dialled without a pause
            else:
                self._backoff.worked()
        elif outlet in self._old:
            self._old.remove(outlet)
        self._changed.set()
        self._kick()

    def _tick(self, outlet: _Outlet, now: float) -> None:
        for session in outlet.joiner.stalled(now):
            self._spoilt(outlet, session, MaybeExecuted("invalid large reply: no part for 30 s", reason="INVALID_REQUEST", code=_C.INVALID_ARGUMENT))
        idle = self.options.idle_time
        if outlet is self._current and idle and outlet.idle() and not self._line and now - outlet.used >= idle:
            self._current = None
            self._old.append(outlet)
            outlet.retiring = True
            outlet.stream.wake()

    def _retire(self) -> None:
        """Lets the current stream half-close when all is answered."""
        if self._current is not None:
            self._current.retiring = True
            self._current.stream.wake()
        for outlet in self._old:
            if not outlet.leaving:
                outlet.retiring = True
            outlet.stream.wake()

    def _cut(self) -> None:
        """Ends everything at once."""
        self._closed = True
        if self._dialling is not None:
            self._dialling.cancel()
        while self._line:
            message = self._line.popleft()
            self._leave_line(message)
            self._finish(message, self._closed_error())
        for outlet in [*self._old, *([self._current] if self._current else [])]:
            outlet.stream.end("this side closed the link")
            self._lost(outlet, "this side closed the link")


_NAME = re.compile(r"[@.][^\x00-\x1f\x7f-\x9f]+")
_HANDLE = re.compile(r":[0-9a-fA-F]{16}")


def parse_target(target: str) -> tuple[str, int]:
    """A target as (name, handle), one of which counts. NotSent says what is wrong."""
    if target.startswith(":"):
        if not _HANDLE.fullmatch(target):
            raise not_sent("INVALID_TARGET", _C.INVALID_ARGUMENT, f"invalid target {target[:80]!r}: a handle is ':' and 16 hex digits")
        return "", int(target[1:], 16)
    if target[:1] not in ("@", "."):
        raise not_sent("INVALID_TARGET", _C.INVALID_ARGUMENT, f"invalid target {target[:80]!r}: it is '@name', '.name' or ':handle'")
    if not _NAME.fullmatch(target) or len(target.encode("utf-8", "replace")) > 255:
        raise not_sent("INVALID_NAME", _C.INVALID_ARGUMENT, f"invalid name {target[:80]!r}: it has a sign and text without control characters, 255 bytes at most")
    return target, 0


def _reply_of(reply: pb.Reply, payload: bytes) -> Reply:
    return Reply(payload, from_headers(reply.headers), from_headers(reply.trailers))


def _invalid(e: Spoilt) -> MaybeExecuted:
    return MaybeExecuted(str(e), reason="INVALID_REQUEST", code=_C.INVALID_ARGUMENT)
