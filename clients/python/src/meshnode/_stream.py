"""One gRPC stream: hellos, a writer, a reader, and a pulse that finds a dead peer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from ._limits import MAX_FRAMES, WRITE_TIMEOUT
from .options import Options, Peer, peer_of
from .wire import cluster_pb2 as pb

log = logging.getLogger("meshnode")

#: Every connection is one link's own: gRPC shares none, retries nothing and
#: waits for nothing, because the link does.
_CHANNEL_OPTIONS: tuple[tuple[str, object], ...] = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.keepalive_time_ms", 10000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


class ConnectError(Exception):
    """There is no stream, and why."""


class Batch:
    """The frames of one gRPC message, encoded, up to the peer's bound."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0
        self._frames = 0

    def add(self, frame: pb.Frame) -> bool:
        """Adds a frame, if it fits; an empty batch takes any."""
        data = frame.SerializeToString()
        prefix = _prefix(len(data))
        size = self._size + len(prefix) + len(data)
        if self._pieces and (size > self._limit or self._frames >= MAX_FRAMES):
            return False
        self._pieces += (prefix, data)
        self._size, self._frames = size, self._frames + 1
        return True

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def encode(self) -> bytes:
        return b"".join(self._pieces)


def _prefix(n: int) -> bytes:
    """Tag and length of an element of `repeated Frame frames = 1`."""
    out = bytearray(b"\x0a")
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


class Stream:
    """One open stream. Whoever owns it sets the callbacks before start()."""

    def __init__(self, channel: grpc.aio.Channel, call: Any, options: Options, peer: Peer, rest: Sequence[pb.Frame]) -> None:
        self.peer = peer
        self.options = options
        self.opened = asyncio.get_running_loop().time()
        #: Adds what is ready to a batch. It returns True when nothing will ever
        #: be sent again: the stream is half-closed then.
        self.fill: Callable[[Batch], bool] = lambda batch: False
        #: Takes a frame that is no heartbeat. ValueError ends the stream.
        self.take: Callable[[pb.Frame], None] = lambda frame: None
        #: Is called once, when the stream has ended. None: with OK.
        self.ended: Callable[[str | None], None] = lambda cause: None
        #: Is called about once a second, and after a pause in reading.
        self.tick: Callable[[float], None] = lambda now: None
        #: While it is unset nothing is read.
        self.reading = asyncio.Event()
        self.reading.set()
        self.half_closed = False
        self._channel, self._call, self._rest = channel, call, rest
        self._wakeup = asyncio.Event()
        self._beat = False
        self._stopped = False  # this side has stopped reading, as it said
        self._peer_stopped = False
        self._sent = self._heard = self.opened
        self._writing_since: float | None = None
        self._cause: str | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._done = False

    # -- opening

    @staticmethod
    async def open(address: str, method: str, hello: pb.Hello, options: Options) -> Stream:
        """Opens a stream and exchanges hellos. ConnectError says why not."""
        channel_options = [*_CHANNEL_OPTIONS, ("grpc.max_receive_message_length", options.max_batch_bytes + 4096), *options.channel_options]
        if options.credentials is None:
            channel = grpc.aio.insecure_channel(address, options=channel_options)
        else:
            channel = grpc.aio.secure_channel(address, options.credentials, options=channel_options)
        try:
            async with asyncio.timeout(options.connect_timeout):
                return await Stream._greet(channel, method, hello, options)
        except TimeoutError:
            _in_background(channel.close())
            raise ConnectError(f"no answer within {options.connect_timeout:g} s") from None
        except BaseException:
            _in_background(channel.close())
            raise

    @staticmethod
    async def _greet(channel: grpc.aio.Channel, method: str, hello: pb.Hello, options: Options) -> Stream:
        call = channel.stream_stream(method)(metadata=list(options.metadata) or None)  # type: ignore[var-annotated]
        try:
            await call.write(_message(pb.Frame(hello=hello)))
            frames: Sequence[pb.Frame] = ()
            while not frames:
                data: Any = await call.read()
                if data is grpc.aio.EOF:
                    raise ConnectError(await _status(call) or "the node ended the stream before its hello")
                frames = pb.LinkResponse.FromString(data).frames
            if frames[0].WhichOneof("body") != "hello":
                raise ConnectError("protocol error: the first frame is not a hello")
            return Stream(channel, call, options, peer_of(frames[0].hello), frames[1:])
        except (grpc.RpcError, asyncio.InvalidStateError):
            raise ConnectError(await _status(call) or "the node ended the stream before its hello") from None
        except DecodeError:
            raise ConnectError("protocol error: the first message is not protobuf") from None
        except ValueError as e:
            raise ConnectError(f"protocol error: {e}") from None

    def start(self) -> None:
        """Begins to read and to write. The callbacks are set."""
        self._tasks = [asyncio.create_task(f, name=f"meshnode {name}") for name, f in (("reader", self._read()), ("writer", self._write()), ("pulse", self._watch()))]

    # -- running

    def wake(self) -> None:
        """Says that there may be something to send."""
        self._wakeup.set()

    def end(self, cause: str) -> None:
        """Cuts the stream. The first cause counts."""
        if self._cause is None:
            self._cause = cause
        if not self._done:
            asyncio.get_running_loop().call_soon(self._finish, self._cause)

    def _finish(self, cause: str | None) -> None:
        """Ends everything, once."""
        if self._done:
            return
        self._done = True
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        self._call.cancel()
        self.ended(cause)
        _in_background(self._release(current))

    async def _release(self, current: asyncio.Task[Any] | None) -> None:
        """Lets go of what keeps the connection open: gRPC closes it when nobody
        has a reference to a call on it."""
        await asyncio.gather(*(t for t in self._tasks if t is not current), return_exceptions=True)
        await self._channel.close()
        self._call = None
        self._tasks = []
        self.fill, self.take, self.tick = (lambda batch: False), (lambda frame: None), (lambda now: None)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        cause: str | None = "the reader stopped"
        try:
            for frame in self._rest:
                self._frame(frame)
            while True:
                if not self.reading.is_set():
                    self._stop_reading(True)
                    await self.reading.wait()
                    self._heard = loop.time()
                    self._stop_reading(False)
                data = await self._call.read()
                self._heard = loop.time()
                if data is grpc.aio.EOF:
                    cause = await _status(self._call)
                    break
                for frame in pb.LinkResponse.FromString(data).frames:
                    self._frame(frame)
        except (grpc.RpcError, asyncio.InvalidStateError):
            cause = await _status(self._call) or "the stream ended"
        except DecodeError:
            cause = "protocol error: a message that is not protobuf"
        except ValueError as e:
            cause = f"protocol error: {e}"
        except asyncio.CancelledError:
            cause = self._cause or "the stream was cancelled"
            raise
        except Exception:
            log.exception("a mistake in meshnode ends the stream")
            cause = "an internal error"
        finally:
            self._finish(self._cause if self._cause is not None else cause)

    def _frame(self, frame: pb.Frame) -> None:
        kind = frame.WhichOneof("body")
        if kind == "heartbeat":
            if self._peer_stopped and not frame.heartbeat.reading_stopped and self._writing_since is not None:
                self._writing_since = asyncio.get_running_loop().time()
            self._peer_stopped = frame.heartbeat.reading_stopped
        elif kind == "hello":
            raise ValueError("a second hello")
        else:
            self.take(frame)

    def _stop_reading(self, stopped: bool) -> None:
        self._stopped = stopped
        self._beat = True
        self.wake()
        if not stopped:
            self.tick(self._heard)

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._wakeup.clear()
                batch = Batch(self.peer.max_batch_bytes)
                if self._beat:
                    self._beat = False
                    batch.add(pb.Frame(heartbeat=pb.Heartbeat(reading_stopped=self._stopped)))
                over = self.fill(batch)
                if batch:
                    self._writing_since = loop.time()
                    await self._call.write(batch.encode())
                    self._writing_since, self._sent = None, loop.time()
                elif over:
                    self.half_closed = True
                    await self._call.done_writing()
                    return
                else:
                    await self._wakeup.wait()
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the reader knows why
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("a mistake in meshnode ends the stream")
            self.end("an internal error")

    async def _watch(self) -> None:
        """Sends heartbeats, and ends the stream when the peer is dead."""
        loop = asyncio.get_running_loop()
        interval = self.options.heartbeat_interval
        while True:
            now = loop.time()
            due = min(self._sent + interval, now + 1.0)
            await asyncio.sleep(max(due - now, 0.001))
            late = loop.time() - due
            now = loop.time()
            if late > 1.0:  # this loop was held up: what has arrived is not read yet
                self._heard = max(self._heard, now - self.peer.silence / 2)
            if now - self._sent >= interval and not self.half_closed and self._writing_since is None:
                self._beat, self._sent = True, now
                self.wake()
            if not self._stopped and not self.half_closed and now - self._heard >= self.peer.silence:
                return self.end(f"nothing arrived for {self.peer.silence:g} s: the node is dead or cut off")
            if self._writing_since is not None and not self._peer_stopped and now - self._writing_since >= WRITE_TIMEOUT:
                return self.end(f"slow consumer: the node did not take a message for {WRITE_TIMEOUT:g} s")
            if not self._stopped:
                self.tick(now)


#: Channels that are being closed. asyncio keeps only weak references to tasks.
_background: set[asyncio.Task[None]] = set()


def _in_background(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work)
    _background.add(task)
    task.add_done_callback(_background.discard)


def _message(frame: pb.Frame) -> bytes:
    return pb.LinkRequest(frames=[frame]).SerializeToString()


async def _status(call: Any) -> str | None:
    """How the stream ended: None for OK, else code and sentence."""
    code = await call.code()
    if code is grpc.StatusCode.OK:
        return None
    return f"{code.name}: {await call.details()}"
