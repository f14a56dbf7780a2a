"""Large messages are joined, and those that break a rule fail alone."""

import pytest

from meshnode._joiner import Joiner, Spoilt

PART = bytes(32768)


def test_joins_in_any_mixture() -> None:
    j = Joiner("reply")
    j.begin(1, 32768 * 2 + 5, PART, 0)
    j.begin(2, 32769, PART, 0)
    assert j.part(1, PART, 0) is None
    assert j.part(2, b"x", 0) == PART + b"x"
    assert j.part(1, b"12345", 0) == PART + PART + b"12345"
    assert j.unfinished == 0


@pytest.mark.parametrize(
    ("total", "first", "part", "says"),
    [
        (10, b"x" * 10, None, "its first frame has 10 bytes of 10"),
        (1 << 20, PART[1:], None, "its first frame has 32767 bytes"),
        (1 << 20, PART, PART + b"x", "a part has 32769 bytes"),
        (1 << 20, PART, b"", "a part has 0 bytes"),
        (1 << 20, PART, b"x", "a part has 1 bytes before the last"),
        (32769, PART, b"xy", "its parts hold more than the 32769 bytes"),
    ],
)
def test_spoilt(total: int, first: bytes, part: bytes | None, says: str) -> None:
    j = Joiner("reply")
    with pytest.raises(Spoilt, match=says):
        j.begin(1, total, first, 0)
        assert part is not None
        j.part(1, part, 0)
    assert j.unfinished == 0


def test_counts_at_least_64_kib_each() -> None:
    j = Joiner("reply")
    j.begin(1, 32769, PART, 0)
    assert j.unfinished == 65536
    assert j.fits(32769, 2 * 65536) and not j.fits(65537, 2 * 65536)
    assert j.drop(1) == 1 and j.drop(1) is None and j.unfinished == 0


def test_parts_that_stop_coming() -> None:
    j = Joiner("reply")
    j.begin(1, 1 << 20, PART, 0)
    j.begin(2, 1 << 20, PART, 0)
    j.part(2, PART, 20)
    assert list(j.stalled(29)) == []
    assert list(j.stalled(30)) == [1]
    j.resume(49)
    assert list(j.stalled(60)) == []
