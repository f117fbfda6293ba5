"""Detach keys in what a client types, however the bytes arrive."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from engine.runtime.monitor.loop import Loop
from engine.runtime.monitor.stdio import Client, Stdio
from engine.runtime.protocol import AttachOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

KEYS = b"\x10\x11"


class Terminal(Stdio):
    """A terminal that keeps what it is fed."""

    def __init__(self) -> None:
        super().__init__(
            Loop(), log=None, tty=True, stdin_once=False, on_detach=self.detach, on_change=int
        )
        self.fed = b""
        self.detached = 0

    def feed(self, data: bytes) -> None:
        self.fed += data

    def detach(self) -> None:
        self.detached += 1


def type_in(chunks: Iterable[bytes], keys: str = "") -> Terminal:
    ours, theirs = socket.socketpair()
    terminal = Terminal()
    client = Client(terminal, theirs, AttachOptions(stdin=True, detach_keys=keys))
    for chunk in chunks:
        if not client.is_closing:
            client.take_input(chunk)
    client.abort()
    ours.close()
    return terminal


def expected(typed: bytes) -> tuple[bytes, int]:
    """All that comes before the keys; keys half typed are held back."""
    head, found, _rest = typed.partition(KEYS)
    if found:
        return head, 1
    return (typed[:-1] if typed.endswith(KEYS[:1]) else typed), 0


@given(st.lists(st.sampled_from([b"a", b"\x10", b"\x11"]), max_size=12).map(b"".join), st.data())
def test_any_chunking_finds_the_same(typed: bytes, data: st.DataObject) -> None:
    chunks, rest = list[bytes](), typed
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        chunks.append(rest[:size])
        rest = rest[size:]
    terminal = type_in(chunks)
    assert (terminal.fed, terminal.detached) == expected(typed)


def test_other_keys_and_a_single_one() -> None:
    terminal = type_in([b"\x10\x11x", b"q", b"z"], keys="q")
    assert (terminal.fed, terminal.detached) == (b"\x10\x11x", 1)
