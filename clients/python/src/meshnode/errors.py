"""What can go wrong, and what is known of the message's execution then."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any

from ._limits import MAX_HEADERS
from .wire import cluster_pb2 as pb

#: Metadata as a list of pairs; a value is bytes where the key ends in "-bin".
Metadata = Sequence[tuple[str, str | bytes]]


class Verdict(enum.Enum):
    """What is known of a message's execution."""

    #: It certainly never left this process for good.
    NOT_SENT = "not sent"
    #: The node refused it before any handler ran.
    REJECTED = "rejected"
    #: The link broke, or the caller gave up, after it was sent.
    MAYBE_EXECUTED = "maybe executed"
    #: The handler ran and failed.
    HANDLER_FAILED = "handler failed"


class MeshError(Exception):
    """The error of a call, push, query or registration.

    It is always one of four subclasses, which say what is known of the
    execution: NotSent, Rejected, MaybeExecuted, HandlerFailed.

    Attributes:
        verdict: the same as a value.
        reason: why, by a name: "NAME_NOT_FOUND", "CONNECT_FAILED", ...; empty
            where the handler returned an error of its own.
        code: the gRPC status code that belongs to it.
        message: a sentence for people.
        details: those of a status that the handler made.
        headers, trailers: what the handler set, where it ran.
    """

    verdict: Verdict

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        details: Sequence[Any] = (),
        headers: Metadata = (),
        trailers: Metadata = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.details = tuple(details)
        self.headers = headers
        self.trailers = trailers

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, reason={self.reason!r}, code={self.code.name})"


class NotSent(MeshError):
    """The message certainly never left this process for good: try again at will."""

    verdict = Verdict.NOT_SENT


class Rejected(MeshError):
    """The node refused it before any handler ran."""

    verdict = Verdict.REJECTED


class MaybeExecuted(MeshError):
    """Nobody knows: the link broke, or the caller gave up, after it was sent."""

    verdict = Verdict.MAYBE_EXECUTED


class HandlerFailed(MeshError):
    """The handler ran and failed."""

    verdict = Verdict.HANDLER_FAILED


class StatusError(Exception):
    """Raised by a handler of Serve to fail with a status of its own."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        details: Sequence[Any] = (),
        headers: Metadata = (),
        trailers: Metadata = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = tuple(details)
        self.headers = headers
        self.trailers = trailers


@dataclass(frozen=True)
class _Rule:
    error: type[MeshError]
    code: grpc.StatusCode


_C = grpc.StatusCode
#: What each reason of the wire means. Those that are missing are the handler's.
_RULES: dict[int, _Rule] = {
    pb.REASON_PANIC: _Rule(HandlerFailed, _C.INTERNAL),
    pb.REASON_UNKNOWN_METHOD: _Rule(Rejected, _C.UNIMPLEMENTED),
    pb.REASON_INVALID_NAME: _Rule(Rejected, _C.INVALID_ARGUMENT),
    pb.REASON_NAME_NOT_FOUND: _Rule(Rejected, _C.NOT_FOUND),
    pb.REASON_STALE_HANDLE: _Rule(Rejected, _C.FAILED_PRECONDITION),
    pb.REASON_OVERLOADED: _Rule(Rejected, _C.RESOURCE_EXHAUSTED),
    pb.REASON_DRAINING: _Rule(Rejected, _C.UNAVAILABLE),
    pb.REASON_TOO_LARGE: _Rule(Rejected, _C.RESOURCE_EXHAUSTED),
    pb.REASON_REPLY_TOO_LARGE: _Rule(HandlerFailed, _C.OUT_OF_RANGE),
    pb.REASON_EXPIRED: _Rule(Rejected, _C.DEADLINE_EXCEEDED),
    pb.REASON_CANCELLED: _Rule(MaybeExecuted, _C.CANCELLED),
    pb.REASON_NOT_PERMITTED: _Rule(Rejected, _C.PERMISSION_DENIED),
    pb.REASON_INVALID_REQUEST: _Rule(Rejected, _C.INVALID_ARGUMENT),
    pb.REASON_NAME_TAKEN: _Rule(Rejected, _C.ALREADY_EXISTS),
    pb.REASON_LINK_BROKEN: _Rule(MaybeExecuted, _C.ABORTED),
    pb.REASON_LOOP: _Rule(Rejected, _C.FAILED_PRECONDITION),
}
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def reason_name(reason: int) -> str:
    """The name of a reason without its prefix: "NAME_NOT_FOUND"."""
    return pb.Reason.Name(reason).removeprefix("REASON_")


def code_of(reason: int) -> grpc.StatusCode:
    """The status code of a reason of the mesh's own."""
    return _RULES[reason].code


def error_of(failure: pb.Failure) -> MeshError:
    """The caller's error for a failure that came over the wire."""
    headers, trailers = from_headers(failure.headers), from_headers(failure.trailers)
    rule = _RULES.get(failure.reason)
    if rule is not None:
        return rule.error(failure.message, reason=reason_name(failure.reason), code=rule.code, headers=headers, trailers=trailers)
    code = _CODES.get(failure.code, _C.UNKNOWN)
    if code is _C.OK:
        code = _C.UNKNOWN
    return HandlerFailed(failure.message, code=code, details=failure.details, headers=headers, trailers=trailers)


def not_sent(reason: str, code: grpc.StatusCode, message: str) -> NotSent:
    return NotSent(message, reason=reason, code=code)


def connect_failed(address: str, cause: str) -> NotSent:
    return NotSent(f"connect {address}: {cause}", reason="CONNECT_FAILED", code=_C.UNAVAILABLE)


def link_broken(address: str, cause: str) -> MaybeExecuted:
    return MaybeExecuted(f"the link to {address} broke: {cause}", reason="LINK_BROKEN", code=_C.ABORTED)


def from_headers(headers: Sequence[pb.Header]) -> list[tuple[str, str | bytes]]:
    """Headers as Python holds them: text, or bytes for keys that end in "-bin"."""
    return [(h.key, h.value if h.key.endswith("-bin") else h.value.decode("utf-8", "replace")) for h in headers]


def to_headers(metadata: Metadata) -> list[pb.Header]:
    """Headers for the wire. ValueError where they break a rule."""
    headers = []
    size = 0
    for key, value in metadata:
        key = key.lower()
        raw = value.encode() if isinstance(value, str) else bytes(value)
        size += len(key) + len(raw) + 32
        if not key or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in key):
            raise ValueError(f"the header key {key[:80]!r} is not lower-case letters, digits, '-', '_' and '.'")
        headers.append(pb.Header(key=key, value=raw))
    if size > MAX_HEADERS:
        raise ValueError(f"the headers have {size} bytes, 32 for each counted; at most {MAX_HEADERS} are taken")
    return headers
