"""The messages that leave on one stream, large ones in parts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable

from ._limits import MIN_UNFINISHED, PART_BYTES
from ._stream import Batch
from .wire import cluster_pb2 as pb


class Parts:
    """A large message that has begun: what of it has not been sent."""

    def __init__(self, session: int, payload: bytes, holds: Hashable = None) -> None:
        self.session, self.payload, self.at = session, payload, PART_BYTES
        self.holds = holds  # the target whose later messages wait for it
        self.counts = max(len(payload), MIN_UNFINISHED)


class Larges:
    """The large messages that have begun on one stream."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._turns: deque[Parts] = deque()
        self._all: dict[int, Parts] = {}
        self._unfinished = 0
        self.held: set[Hashable] = set()

    def fits(self, size: int) -> bool:
        """Whether a message of this size may begin beside the others."""
        return self._unfinished + max(size, MIN_UNFINISHED) <= self._limit

    def begin(self, parts: Parts) -> None:
        self._turns.append(parts)
        self._all[parts.session] = parts
        self._unfinished += parts.counts
        if parts.holds is not None:
            self.held.add(parts.holds)

    def drop(self, session: int) -> None:
        """Sends no more of a message, if it has begun and not ended."""
        parts = self._all.pop(session, None)
        if parts is not None:
            self._turns.remove(parts)
            self._end(parts)

    def _end(self, parts: Parts) -> None:
        self._unfinished -= parts.counts
        self.held.discard(parts.holds)

    def fill(self, batch: Batch, over: Callable[[int], None] | None = None) -> None:
        """Adds parts, one of each message in turn, while there is room."""
        while self._turns:
            parts = self._turns[0]
            piece = parts.payload[parts.at : parts.at + PART_BYTES]
            if not batch.add(pb.Frame(session=parts.session, part=pb.Part(payload=piece))):
                return
            self._turns.popleft()
            parts.at += PART_BYTES
            if parts.at < len(parts.payload):
                self._turns.append(parts)
                continue
            del self._all[parts.session]
            self._end(parts)
            if over is not None:
                over(parts.session)

    def __bool__(self) -> bool:
        return bool(self._turns)
