"""Serve: answers under names of a node, for a program that cannot listen."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import grpc

from ._backoff import Backoff
from ._joiner import Joiner, Spoilt
from ._limits import MAX_DETAILS, MAX_ERROR_TEXT, MAX_HEADERS, MAX_METHOD, PART_BYTES
from ._outlet import Larges, Parts
from ._stream import Batch, ConnectError, Stream, log
from .errors import MaybeExecuted, Metadata, NotSent, StatusError, code_of, error_of, from_headers, link_broken, not_sent, to_headers
from .link import Reply, parse_target
from .options import Options
from .wire import cluster_pb2 as pb

_SERVE = "/mesh.v1.ClusterService/Serve"
_C = grpc.StatusCode


@dataclass(frozen=True)
class Request:
    """What a handler is asked.

    Attributes:
        name: the name that was called, with its sign.
        method: free text, or "/package.Service/Method".
        payload: the message.
        push: nobody waits for an answer.
        headers: metadata of the caller's.
        trace_tag: a skynet trace tag, or empty.
        deadline: when the caller gives up, on the event loop's clock; None: never.
    """

    name: str
    method: str
    payload: bytes
    push: bool = False
    headers: Metadata = ()
    trace_tag: str = ""
    deadline: float | None = None

    def time_left(self) -> float | None:
        """Seconds until the deadline; None where there is none."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - asyncio.get_running_loop().time())


#: Answers a request. It returns the payload, or a Reply with headers and
#: trailers, or None for an empty one; StatusError makes it fail with a status of
#: its own, any other exception with INTERNAL and an id that is in the log.
Handler = Callable[[Request], Awaitable[bytes | Reply | None]]


@dataclass
class _Name:
    """A name that this program serves."""

    name: str
    handler: Handler
    shared: bool
    turns: asyncio.Semaphore | None
    handle: int = 0
    answered: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    retry: asyncio.TimerHandle | None = None


@dataclass(eq=False)
class _Task:
    """A request that was taken."""

    session: int
    push: bool
    task: asyncio.Task[None] | None = None
    begun: bool = False
    cancelled: bool = False
    expired: bool = False

    def cancel(self) -> None:
        """Ends the handler. A task that has not had its first step is left to
        see it by itself: asyncio would drop it without running a line of it,
        and the call would never be answered."""
        self.cancelled = True
        if self.begun and self.task is not None:
            self.task.cancel()


class _Inlet:
    """One open stream of a serving program."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.session = 0  # the last request's
        self.own = 0  # the last register's or unregister's
        self.asked: dict[int, tuple[str, asyncio.Future[int]]] = {}
        self.begun: dict[int, pb.Request] = {}  # first frames of large requests
        self.joiner = Joiner("request")
        self.tasks: dict[int, _Task] = {}
        self.pushes = 0
        self.control: deque[pb.Frame] = deque()
        self.answers: deque[tuple[pb.Frame, bytes]] = deque()  # the frame, and the whole payload of a reply
        self.sending: set[int] = set()  # large replies that have begun
        self.larges = Larges(stream.peer.max_unfinished_bytes)
        self.last: int | None = None  # as the goaway said
        self.calls = 0  # taken and not answered


class Serve:
    """Names of a node that this program answers for, on one asyncio event loop.

        async def model(request: meshnode.Request) -> bytes:
            return request.payload.upper()

        async with meshnode.Serve("127.0.0.1:2528") as program:
            await program.register("@model", model)
            await program.wait()

    The stream is opened at the first register, and again, with pauses, when it
    broke; names are registered on each new one. Handlers run concurrently, up
    to Options.max_calls. A handler is cancelled when its caller gave up, its
    deadline passed or the stream ended (a push's is not); what it returns then
    is dropped.

    Args:
        address: "host:port" or "unix:path" of a node that takes programs.
        options: everything else.
    """

    def __init__(self, address: str, options: Options | None = None) -> None:
        self.address = address
        self.options = options or Options()
        self._names: dict[str, _Name] = {}
        self._inlet: _Inlet | None = None
        self._running: asyncio.Task[None] | None = None
        self._backoff = Backoff(self.options)
        self._closing = False
        self._over = asyncio.Event()
        self._changed = asyncio.Event()
        self._pushes: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    # -- for users

    async def register(self, name: str, handler: Handler, *, shared: bool = False, concurrency: int = 0) -> int:
        """Offers a name, and returns its handle when the node has it. It waits
        for a node that cannot be reached: bound it with asyncio.timeout.

        Args:
            name: "@model" for the cluster, ".model" for the node itself.
            handler: answers what comes for the name.
            shared: other programs may serve the name too, if all say so; the
                messages are spread over them.
            concurrency: how many run at once, in order of arrival. 1: one
                after another. 0: as many as Options.max_calls.

        Raises:
            Rejected: NAME_TAKEN, INVALID_NAME, NOT_PERMITTED, OVERLOADED.
            NotSent: CLOSED, INVALID_NAME, INVALID_TARGET.
            ValueError: this program serves the name already.
        """
        if self._closing:
            raise self._closed_error()
        if name[:1] not in ("@", "."):
            name = "@" + name
        parse_target(name)
        if name in self._names:
            raise ValueError(f"{name} is served already")
        entry = _Name(name, handler, shared, asyncio.Semaphore(concurrency) if concurrency > 0 else None)
        self._names[name] = entry
        if self._inlet is not None:
            self._ask(self._inlet, entry)
        elif self._running is None:
            self._running = asyncio.create_task(self._run(), name="meshnode serve")
        try:
            return await asyncio.shield(entry.answered)
        except BaseException:
            if self._names.get(name) is entry:  # given up: the node may have it, or have it soon
                self._forget(entry)
                if self._inlet is not None:
                    self._take_back(self._inlet, name)
            raise

    async def unregister(self, name: str) -> None:
        """Takes a name back. Requests that came before are still answered. A
        name that is not served is no error."""
        if name[:1] not in ("@", "."):
            name = "@" + name
        entry = self._names.get(name)
        if entry is None:
            return
        inlet = self._inlet
        if inlet is None:
            self._forget(entry)
            return
        try:
            await asyncio.shield(self._take_back(inlet, name))
        except MaybeExecuted:
            pass  # the name went with the stream
        finally:
            self._forget(entry)

    async def wait(self) -> None:
        """Returns when the program is closed."""
        await self._over.wait()

    async def close(self, timeout: float = 10.0) -> None:
        """Ends in good order: no more requests are taken, those that were get
        their answers, then the stream ends. After timeout seconds it is cut.
        It is safe to call twice."""
        self._closing = True
        for entry in list(self._names.values()):
            if not entry.answered.done():
                entry.answered.set_exception(self._closed_error())
                entry.answered.exception()
        try:
            async with asyncio.timeout(timeout):
                while self._inlet is not None:
                    self._changed.clear()
                    self._leave(self._inlet)
                    await self._changed.wait()
        except TimeoutError:
            pass
        finally:
            if self._inlet is not None:
                inlet = self._inlet
                inlet.stream.end("this side closed")
                self._lost(inlet, "this side closed")
            if self._running is not None:
                self._running.cancel()
            for task in list(self._pushes):
                task.cancel()
            self._over.set()

    # -- the stream

    async def _run(self) -> None:
        """Keeps a stream open until the program is closed."""
        while not self._closing:
            await self._backoff.wait()
            try:
                stream = await Stream.open(self.address, _SERVE, self.options.hello("", serve=True), self.options)
            except ConnectError as e:
                log.warning("serve at %s: %s", self.address, e)
                self._backoff.failed()
                continue
            inlet = _Inlet(stream)
            ended = asyncio.Event()
            stream.fill = lambda batch, inlet=inlet: self._fill(inlet, batch)  # type: ignore[misc]
            stream.take = lambda frame, inlet=inlet: self._take(inlet, frame)  # type: ignore[misc]
            stream.tick = lambda now, inlet=inlet: self._tick(inlet, now)  # type: ignore[misc]

            def over(cause: str | None, inlet: _Inlet = inlet, ended: asyncio.Event = ended) -> None:
                self._lost(inlet, cause)
                ended.set()

            stream.ended = over
            self._inlet = inlet
            stream.start()
            for entry in list(self._names.values()):
                self._ask(inlet, entry)
            if self._closing:
                self._leave(inlet)
            await ended.wait()

    def _lost(self, inlet: _Inlet, cause: str | None) -> None:
        """A stream has ended: its calls end, its names are asked for again."""
        if inlet is not self._inlet:
            return
        self._inlet = None
        text = cause or "the node ended the stream"
        if not self._closing:
            log.warning("the stream to %s ended: %s", self.address, text)
        if asyncio.get_running_loop().time() - inlet.stream.opened < self.options.backoff_max:
            self._backoff.failed()
        else:
            self._backoff.worked()
        for task in list(inlet.tasks.values()):
            if not task.push:
                task.cancel()
        for _, asked in inlet.asked.values():
            if not asked.done():
                asked.set_exception(link_broken(self.address, text))
                asked.exception()
        self._changed.set()

    def _leave(self, inlet: _Inlet) -> None:
        """Says goaway, once."""
        if inlet.last is None:
            inlet.last = inlet.session
            inlet.control.append(pb.Frame(goaway=pb.Goaway(last_session=inlet.session, message="the program leaves")))
            inlet.stream.reading.set()
        inlet.stream.wake()

    # -- names

    def _ask(self, inlet: _Inlet, entry: _Name) -> None:
        """Registers a name on a stream."""
        frame = pb.Frame(register=pb.Register(name=entry.name, shared=entry.shared))
        self._control(inlet, entry.name, frame).add_done_callback(lambda f: self._asked(entry, f))

    def _take_back(self, inlet: _Inlet, name: str) -> asyncio.Future[int]:
        """Unregisters a name on a stream."""
        answer = self._control(inlet, name, pb.Frame(unregister=pb.Unregister(name=name)))
        answer.add_done_callback(lambda f: f.cancelled() or f.exception())  # nobody has to wait for it
        return answer

    def _control(self, inlet: _Inlet, name: str, frame: pb.Frame) -> asyncio.Future[int]:
        inlet.own += 1
        frame.session = inlet.own
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        inlet.asked[inlet.own] = (name, answer)
        inlet.control.append(frame)
        inlet.stream.wake()
        return answer

    def _asked(self, entry: _Name, answer: asyncio.Future[int]) -> None:
        """The node has answered a register, or the stream ended before."""
        if self._names.get(entry.name) is not entry:
            return
        error = answer.exception()
        if error is None:
            entry.handle = answer.result()
            if not entry.answered.done():
                entry.answered.set_result(entry.handle)
        elif self._inlet is None:
            return  # the next stream asks again
        elif not entry.answered.done():
            self._forget(entry)
            entry.answered.set_exception(error)
            entry.answered.exception()
        else:  # it was registered before: an earlier stream may hold it for a while
            log.warning("%s cannot be registered again at %s yet: %s", entry.name, self.address, error)
            inlet = self._inlet
            entry.retry = asyncio.get_running_loop().call_later(self.options.backoff_max, self._ask_again, inlet, entry)

    def _ask_again(self, inlet: _Inlet, entry: _Name) -> None:
        if inlet is self._inlet and self._names.get(entry.name) is entry and not self._closing:
            self._ask(inlet, entry)

    def _forget(self, entry: _Name) -> None:
        self._names.pop(entry.name, None)
        if entry.retry is not None:
            entry.retry.cancel()

    def _closed_error(self) -> NotSent:
        return not_sent("CLOSED", _C.UNAVAILABLE, f"the program at {self.address} is closed")

    # -- requests

    def _take(self, inlet: _Inlet, frame: pb.Frame) -> None:
        kind, session = frame.WhichOneof("body"), frame.session
        if kind == "request":
            self._request(inlet, session, frame.request)
        elif kind == "part":
            self._part(inlet, session, frame.part.payload)
        elif kind == "cancel":
            self._cancel(inlet, session)
        elif kind == "registered":
            asked = inlet.asked.pop(session, None)
            if asked is not None and not asked[1].done():
                asked[1].set_result(frame.registered.handle)
        elif kind == "failure":
            asked = inlet.asked.pop(session, None)
            if asked is not None and not asked[1].done():
                asked[1].set_exception(error_of(frame.failure))
        elif kind is None and session and session not in inlet.tasks:
            self._refuse(inlet, session, pb.REASON_INVALID_REQUEST, "invalid request: the frame has no body that is known here")

    def _request(self, inlet: _Inlet, session: int, request: pb.Request) -> None:
        if session <= inlet.session:
            raise ValueError(f"the request with session {session} after {inlet.session}")
        inlet.session = session
        if inlet.last is not None:
            return  # the goaway has told
        refusal = self._refusal(inlet, request)
        if not refusal and request.total_size:
            try:
                inlet.joiner.begin(session, request.total_size, request.payload, asyncio.get_running_loop().time())
            except Spoilt as e:
                refusal = (pb.REASON_INVALID_REQUEST, str(e))
        if refusal:
            self._refuse(inlet, session, *refusal, push=request.push)
        elif request.total_size:
            inlet.begun[session] = request
            if not request.push:
                inlet.calls += 1
        else:
            if not request.push:
                inlet.calls += 1
            self._dispatch(inlet, session, request, request.payload)

    def _refusal(self, inlet: _Inlet, request: pb.Request) -> tuple[int, str] | None:
        """Why a request is refused by its first frame."""
        o, size = self.options, request.total_size or len(request.payload)
        by_handle = request.WhichOneof("address") == "handle"
        headers = sum(len(h.key) + len(h.value) + 32 for h in request.headers)
        if len(request.method.encode()) > MAX_METHOD or headers > MAX_HEADERS:
            return pb.REASON_INVALID_REQUEST, "invalid request: its method or its headers are too long"
        if by_handle and self._by_handle(request.handle) is None:
            return pb.REASON_STALE_HANDLE, f"stale handle :{request.handle:016x}"
        if not by_handle and request.name not in self._names:
            return pb.REASON_NAME_NOT_FOUND, f"name not found: {request.name[:255]}"
        if not by_handle and self._names[request.name].answered.cancelled():
            return pb.REASON_NAME_NOT_FOUND, f"name not found: {request.name[:255]}"
        if request.stream:
            return pb.REASON_UNKNOWN_METHOD, "this program takes no streams"
        if size > o.max_message_bytes:
            return pb.REASON_TOO_LARGE, f"too large: {size} bytes; at most {o.max_message_bytes} are taken"
        if not request.push and inlet.calls >= o.max_calls:
            return pb.REASON_OVERLOADED, f"overloaded: {inlet.calls} calls run here"
        if request.total_size and not inlet.joiner.fits(size, o.max_unfinished_bytes):
            return pb.REASON_OVERLOADED, f"overloaded: more than {o.max_unfinished_bytes} bytes are unfinished"
        return None

    def _by_handle(self, handle: int) -> _Name | None:
        return next((n for n in self._names.values() if n.handle == handle and handle), None)

    def _part(self, inlet: _Inlet, session: int, payload: bytes) -> None:
        request = inlet.begun.get(session)
        if request is None:
            return
        try:
            whole = inlet.joiner.part(session, payload, asyncio.get_running_loop().time())
        except Spoilt as e:
            self._drop_begun(inlet, session, pb.REASON_INVALID_REQUEST, str(e))
            return
        if whole is not None:
            del inlet.begun[session]
            self._dispatch(inlet, session, request, whole)

    def _drop_begun(self, inlet: _Inlet, session: int, reason: int, text: str) -> None:
        """Refuses a large request that has begun."""
        request = inlet.begun.pop(session)
        inlet.joiner.drop(session)
        if not request.push:
            inlet.calls -= 1
        self._refuse(inlet, session, reason, text, push=request.push)

    def _cancel(self, inlet: _Inlet, session: int) -> None:
        if session in inlet.begun:
            self._drop_begun(inlet, session, pb.REASON_CANCELLED, "cancelled")
            return
        task = inlet.tasks.get(session)
        if task is not None:
            task.cancel()
        elif session in inlet.sending:  # its reply has begun
            inlet.sending.discard(session)
            inlet.larges.drop(session)
            self._refuse(inlet, session, pb.REASON_CANCELLED, "cancelled")

    def _dispatch(self, inlet: _Inlet, session: int, request: pb.Request, payload: bytes) -> None:
        """Starts a handler."""
        entry = self._by_handle(request.handle) if request.WhichOneof("address") == "handle" else self._names.get(request.name)
        if entry is None:  # unregistered while it came
            if not request.push:
                inlet.calls -= 1
            self._refuse(inlet, session, pb.REASON_NAME_NOT_FOUND, f"name not found: {request.name[:255]}", push=request.push)
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.time_left_us / 1e6 if request.time_left_us else None
        asked = Request(entry.name, request.method, payload, request.push, from_headers(request.headers), request.trace_tag, deadline)
        taken = _Task(session, request.push)
        inlet.tasks[session] = taken
        taken.task = asyncio.create_task(self._work(inlet, taken, entry, asked), name=f"meshnode {entry.name} {session}")
        if request.push:
            self._pushes.add(taken.task)
            taken.task.add_done_callback(self._pushes.discard)
            inlet.pushes += 1
            if inlet.pushes >= self.options.max_calls and inlet.last is None:
                inlet.stream.reading.clear()  # HTTP/2 stops the node

    async def _work(self, inlet: _Inlet, taken: _Task, entry: _Name, request: Request) -> None:
        """Runs a handler and answers for it."""
        timer = None
        taken.begun = True
        if request.deadline is not None and taken.task is not None:
            timer = asyncio.get_running_loop().call_at(request.deadline, self._expire, taken)
        answer: pb.Frame
        payload = b""
        started = False
        try:
            if taken.cancelled:
                raise asyncio.CancelledError
            if entry.turns is not None:
                async with entry.turns:
                    started = True
                    result = await entry.handler(request)
            else:
                started = True
                result = await entry.handler(request)
            answer, payload = self._reply(inlet, taken, result)
        except asyncio.CancelledError:
            if taken.expired and not started:
                answer = _failure(taken.session, pb.REASON_EXPIRED, _C.DEADLINE_EXCEEDED, "the deadline passed before the call's turn came")
            elif taken.expired:
                answer = _failure(taken.session, pb.REASON_HANDLER, _C.DEADLINE_EXCEEDED, "the deadline passed while the handler ran")
            else:
                answer = _failure(taken.session, pb.REASON_CANCELLED, _C.CANCELLED, "cancelled")
        except StatusError as e:
            answer = _status_failure(taken.session, e)
        except Exception:
            mark = secrets.token_hex(4)
            log.exception("the handler of %s failed, id %s", entry.name, mark)
            answer = _failure(taken.session, pb.REASON_PANIC, _C.INTERNAL, f"the handler of {entry.name} failed; its log has the id {mark}")
        finally:
            if timer is not None:
                timer.cancel()
            inlet.tasks.pop(taken.session, None)
        self._done(inlet, taken, answer, payload)

    def _expire(self, taken: _Task) -> None:
        taken.expired = True
        if taken.task is not None:
            taken.task.cancel()

    def _done(self, inlet: _Inlet, taken: _Task, answer: pb.Frame, payload: bytes) -> None:
        if taken.push:
            inlet.pushes -= 1
            if inlet.pushes < self.options.max_calls * 3 // 4:
                inlet.stream.reading.set()
        else:
            inlet.answers.append((answer, payload))
        inlet.stream.wake()

    def _reply(self, inlet: _Inlet, taken: _Task, result: bytes | Reply | None) -> tuple[pb.Frame, bytes]:
        reply = result if isinstance(result, Reply) else Reply(result or b"")
        payload, peer = bytes(reply.payload), inlet.stream.peer
        size, limit = len(payload), peer.max_message_bytes
        if size > PART_BYTES:
            limit = min(limit, peer.max_unfinished_bytes)
        if size > limit:
            return _failure(taken.session, pb.REASON_REPLY_TOO_LARGE, _C.OUT_OF_RANGE, f"reply too large: {size} bytes; the caller takes {limit}"), b""
        frame = pb.Frame(session=taken.session, reply=pb.Reply(headers=to_headers(reply.headers), trailers=to_headers(reply.trailers)))
        if size > PART_BYTES:
            frame.reply.payload, frame.reply.total_size = payload[:PART_BYTES], size
            return frame, payload
        frame.reply.payload = payload
        return frame, b""

    def _refuse(self, inlet: _Inlet, session: int, reason: int, text: str, push: bool = False) -> None:
        """Answers a call for which no handler runs."""
        if not push:
            inlet.control.append(_failure(session, reason, code_of(reason), text))
            inlet.stream.wake()

    # -- sending

    def _fill(self, inlet: _Inlet, batch: Batch) -> bool:
        while inlet.control:
            if not batch.add(inlet.control[0]):
                return False
            inlet.control.popleft()
        stay: list[tuple[pb.Frame, bytes]] = []
        while inlet.answers:
            frame, payload = inlet.answers[0]
            if payload and (stay or not inlet.larges.fits(len(payload))):
                stay.append(inlet.answers.popleft())  # small ones may pass it
                continue
            if not batch.add(frame):
                break
            inlet.answers.popleft()
            inlet.calls -= 1
            if payload:
                inlet.larges.begin(Parts(frame.session, payload))
                inlet.sending.add(frame.session)
        inlet.answers.extendleft(reversed(stay))
        inlet.larges.fill(batch, inlet.sending.discard)
        return inlet.last is not None and not (inlet.tasks or inlet.begun or inlet.answers or inlet.control or inlet.larges)

    def _tick(self, inlet: _Inlet, now: float) -> None:
        for session in inlet.joiner.stalled(now):
            self._drop_begun(inlet, session, pb.REASON_INVALID_REQUEST, "invalid large request: no part for 30 s")


def _failure(session: int, reason: int, code: grpc.StatusCode, text: str) -> pb.Frame:
    return pb.Frame(session=session, failure=pb.Failure(reason=reason, code=code.value[0], message=_cut(text)))  # type: ignore[arg-type]


def _status_failure(session: int, e: StatusError) -> pb.Frame:
    code = e.code if e.code is not _C.OK else _C.UNKNOWN
    frame = _failure(session, pb.REASON_HANDLER, code, e.message)
    if sum(d.ByteSize() for d in e.details) <= MAX_DETAILS:
        frame.failure.details.extend(e.details)
    try:
        frame.failure.headers.extend(to_headers(e.headers))
        frame.failure.trailers.extend(to_headers(e.trailers))
    except ValueError as wrong:
        log.warning("headers or trailers of a failure are dropped: %s", wrong)
        del frame.failure.headers[:], frame.failure.trailers[:]
    return frame


def _cut(text: str) -> str:
    """A text of 1 KiB at most, cut at a character's end."""
    raw = text.encode("utf-8", "replace")
    return text if len(raw) <= MAX_ERROR_TEXT else raw[:MAX_ERROR_TEXT].decode("utf-8", "ignore")
