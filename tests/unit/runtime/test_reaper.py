"""Who has ended, and with which code, also of those that somebody else forked."""

from __future__ import annotations

import os
import signal

import pytest

from engine.runtime.monitor.loop import Loop
from engine.runtime.monitor.reaper import Reaper


@pytest.fixture
def reaper() -> Reaper:
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.write(write, bytes(128))
    os.close(write)
    return Reaper(Loop(), read)


def test_one_that_ended_before_it_was_watched_is_not_missed(
    reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = iter([(11, 3 << 8), (12, signal.SIGKILL), (0, 0)])
    monkeypatch.setattr(os, "waitpid", lambda _pid, _options: next(ended))
    reaper.remember_strangers(True)
    loop = reaper._loop
    codes: list[int] = []

    def note(code: int) -> None:
        codes.append(code)
        loop.is_running = len(codes) < 2

    reaper._on_signal(0)
    reaper.watch(12, note)
    reaper.watch(11, note)
    assert codes == []
    loop.remove(reaper._fd)
    loop.run()
    assert codes == [128 + signal.SIGKILL, 3]
    os.close(reaper._fd)


def test_others_are_forgotten(reaper: Reaper, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = iter([(11, 0), (0, 0)])
    monkeypatch.setattr(os, "waitpid", lambda _pid, _options: next(ended))
    reaper._on_signal(0)
    reaper.watch(11, pytest.fail)
    assert list(reaper._watched) == [11]
    os.close(reaper._fd)
