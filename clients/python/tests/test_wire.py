"""The golden frames, and what an error says for each reason."""

import json
import pathlib

import grpc
import pytest
from google.protobuf import json_format

import meshnode
from meshnode._stream import Batch
from meshnode.errors import error_of, to_headers
from meshnode.link import parse_target
from meshnode.options import Options, peer_of
from meshnode.wire import cluster_pb2 as pb
from meshnode.wire import process_pb2  # noqa: F401  the golden details need its types

GOLDEN = pathlib.Path(__file__).parents[3] / "test/conformance/golden/frames.json"
FRAMES = json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("golden", FRAMES, ids=[g["name"] for g in FRAMES])
def test_golden(golden: dict) -> None:  # type: ignore[type-arg]
    kind = getattr(pb, golden["message"])
    data = bytes.fromhex(golden["hex"])
    message = kind.FromString(data)
    assert json_format.MessageToDict(message) == json_format.MessageToDict(json_format.ParseDict(golden["json"], kind()))
    assert kind.FromString(message.SerializeToString()) == message


def test_batch_writes_what_protobuf_does() -> None:
    batch = Batch(1 << 20)
    frames = [pb.Frame(session=n, part=pb.Part(payload=bytes(n * 100))) for n in range(5)]
    assert all(batch.add(f) for f in frames)
    assert pb.LinkRequest.FromString(batch.encode()) == pb.LinkRequest(frames=frames)


def test_batch_keeps_to_its_limits() -> None:
    batch = Batch(65536)
    part = pb.Frame(session=1, part=pb.Part(payload=bytes(32768)))
    assert batch.add(part) and not batch.add(part)
    assert len(batch.encode()) <= 65536
    many = Batch(1 << 20)
    assert [many.add(pb.Frame(session=1)) for _ in range(4097)].count(False) == 1


@pytest.mark.parametrize(
    ("reason", "kind", "name", "code"),
    [
        (pb.REASON_NAME_NOT_FOUND, meshnode.Rejected, "NAME_NOT_FOUND", grpc.StatusCode.NOT_FOUND),
        (pb.REASON_EXPIRED, meshnode.Rejected, "EXPIRED", grpc.StatusCode.DEADLINE_EXCEEDED),
        (pb.REASON_CANCELLED, meshnode.MaybeExecuted, "CANCELLED", grpc.StatusCode.CANCELLED),
        (pb.REASON_LINK_BROKEN, meshnode.MaybeExecuted, "LINK_BROKEN", grpc.StatusCode.ABORTED),
        (pb.REASON_PANIC, meshnode.HandlerFailed, "PANIC", grpc.StatusCode.INTERNAL),
        (pb.REASON_HANDLER, meshnode.HandlerFailed, "", grpc.StatusCode.ABORTED),
        (99, meshnode.HandlerFailed, "", grpc.StatusCode.ABORTED),
    ],
)
def test_reasons(reason: int, kind: type, name: str, code: grpc.StatusCode) -> None:
    e = error_of(pb.Failure(reason=reason, code=10, message="why"))  # type: ignore[arg-type]
    assert type(e) is kind and e.reason == name and e.code is code and e.message == "why"


def test_every_reason_of_the_wire_is_known() -> None:
    for value in pb.Reason.values():
        e = error_of(pb.Failure(reason=value, code=10))  # type: ignore[arg-type]
        assert e.reason or value in (pb.REASON_UNSPECIFIED, pb.REASON_HANDLER), pb.Reason.Name(value)


@pytest.mark.parametrize("code", [0, 17, 1 << 31])
def test_codes_of_nobody_are_unknown(code: int) -> None:
    assert error_of(pb.Failure(reason=pb.REASON_HANDLER, code=code)).code is grpc.StatusCode.UNKNOWN


def test_targets() -> None:
    assert parse_target("@sdb") == ("@sdb", 0)
    assert parse_target(".launcher") == (".launcher", 0)
    assert parse_target(":5f3a9c1200000001") == ("", 0x5F3A9C1200000001)
    for target, reason in [("sdb", "INVALID_TARGET"), ("", "INVALID_TARGET"), (":12", "INVALID_TARGET"), ("@", "INVALID_NAME"), ("@a\nb", "INVALID_NAME"), ("@" + "x" * 255, "INVALID_NAME")]:
        with pytest.raises(meshnode.NotSent) as e:
            parse_target(target)
        assert e.value.reason == reason and e.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_headers() -> None:
    assert to_headers([("Key", "v"), ("raw-bin", b"\0")]) == [pb.Header(key="key", value=b"v"), pb.Header(key="raw-bin", value=b"\0")]
    with pytest.raises(ValueError, match="8192"):
        to_headers([("k", "v" * 8160)])
    with pytest.raises(ValueError, match="key"):
        to_headers([("a b", "v")])


def test_options_are_checked() -> None:
    for wrong in ({"process": "a b"}, {"max_batch_bytes": 1}, {"connect_timeout": 0}):
        with pytest.raises(ValueError):
            Options(**wrong)  # type: ignore[arg-type]
    assert Options().hello("db").incarnation == Options().hello("other").incarnation != 0


def test_what_a_peer_does_not_say_is_the_default() -> None:
    peer = peer_of(pb.Hello(version=1, process="p", incarnation=1))
    assert (peer.silence, peer.max_batch_bytes, peer.max_message_bytes, peer.max_unfinished_bytes, peer.max_calls) == (6.0, 262144, 64 << 20, 64 << 20, 16384)
    assert peer_of(pb.Hello(version=1, process="p", incarnation=1, heartbeat_interval_ms=5000)).silence == 15.0
    for wrong in (pb.Hello(version=2, process="p", incarnation=1), pb.Hello(version=1, process="p"), pb.Hello(version=1, incarnation=1)):
        with pytest.raises(ValueError):
            peer_of(wrong)
