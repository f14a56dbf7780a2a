"""Joins large messages from their parts, and bounds them."""

from __future__ import annotations

from collections.abc import Iterator

from ._limits import MIN_UNFINISHED, PART_BYTES

#: A large message fails when no part of it came for so long.
STALL = 30.0


class Spoilt(Exception):
    """A large message breaks a rule; it fails alone."""


class _Large:
    def __init__(self, total: int, first: bytes, now: float) -> None:
        self.total, self.pieces, self.size, self.last = total, [first], len(first), now


class Joiner:
    """The large messages of one stream and direction that are not whole yet."""

    def __init__(self, what: str) -> None:
        self._what = what  # "reply" or "request", for the sentences
        self._larges: dict[int, _Large] = {}
        self.unfinished = 0

    def fits(self, total: int, limit: int) -> bool:
        """Whether one more may begin."""
        return self.unfinished + max(total, MIN_UNFINISHED) <= limit

    def begin(self, session: int, total: int, first: bytes, now: float) -> None:
        """Takes the first frame of a large message."""
        if session in self._larges:
            self.drop(session)
            raise Spoilt(f"invalid large {self._what}: it begins twice")
        if total <= PART_BYTES or len(first) != PART_BYTES:
            raise Spoilt(f"invalid large {self._what}: its first frame has {len(first)} bytes of {total}")
        self._larges[session] = _Large(total, first, now)
        self.unfinished += max(total, MIN_UNFINISHED)

    def part(self, session: int, payload: bytes, now: float) -> bytes | None:
        """Takes a part; the message where that makes it whole. KeyError where none has begun."""
        large = self._larges[session]
        size = large.size + len(payload)
        text = ""
        if not payload or len(payload) > PART_BYTES:
            text = f"a part has {len(payload)} bytes"
        elif size > large.total:
            text = f"its parts hold more than the {large.total} bytes that it announced"
        elif size < large.total and len(payload) != PART_BYTES:
            text = f"a part has {len(payload)} bytes before the last"
        if text:
            self.drop(session)
            raise Spoilt(f"invalid large {self._what}: {text}")
        large.pieces.append(payload)
        large.size, large.last = size, now
        if size < large.total:
            return None
        self.drop(session)
        return b"".join(large.pieces)

    def drop(self, session: int) -> int | None:
        """Forgets a message, if it has begun: how many bytes of it are to come."""
        large = self._larges.pop(session, None)
        if large is None:
            return None
        self.unfinished -= max(large.total, MIN_UNFINISHED)
        return large.total - large.size

    def stalled(self, now: float) -> Iterator[int]:
        """The sessions of those that stopped coming; they are dropped."""
        for session in [s for s, large in self._larges.items() if now - large.last >= STALL]:
            self.drop(session)
            yield session

    def resume(self, now: float) -> None:
        """Reading goes on after a pause, which is not the sender's fault."""
        for large in self._larges.values():
            large.last = now
