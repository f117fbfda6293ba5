"""The frames that tell two streams in one apart."""

from __future__ import annotations

from engine import stdcopy

BATCH = [(stdcopy.STDOUT, b"out\n"), (stdcopy.STDERR, b""), (stdcopy.STDERR, b"x" * 300)]


def test_a_frame_has_its_stream_and_its_length_in_big_endian() -> None:
    assert stdcopy.frame(stdcopy.STDERR, b"x" * 300) == b"\2\0\0\0\0\0\1\x2c" + b"x" * 300


def test_frames_follow_each_other() -> None:
    assert stdcopy.frames(BATCH) == b"".join(stdcopy.frame(*piece) for piece in BATCH)
    assert stdcopy.unframed(BATCH) == b"out\n" + b"x" * 300
