"""Signals as users write them: a number, or a name with or without SIG."""

from __future__ import annotations

import signal

from engine.errors import InvalidParameter

SIGTERM = int(signal.SIGTERM)
SIGKILL = int(signal.SIGKILL)
_RTMIN = 34  # what a process may use; glibc keeps 32 and 33
_RTMAX = 64

_NAMES: dict[str, int] = {
    **{s.name.removeprefix("SIG"): int(s) for s in signal.Signals},
    "CLD": int(signal.SIGCHLD),
    "POLL": int(signal.SIGIO),
    "IOT": int(signal.SIGABRT),
    "STKFLT": 16,
    "UNUSED": 31,
    "RTMIN": _RTMIN,
    "RTMAX": _RTMAX,
    **{f"RTMIN+{n}": _RTMIN + n for n in range(1, 16)},
    **{f"RTMAX-{n}": _RTMAX - n for n in range(1, 15)},
}


class InvalidSignal(InvalidParameter):
    def __init__(self, text: str) -> None:
        super().__init__(f"invalid signal: {text}")


class UnsupportedSignal(InvalidParameter):
    """A number that is none of this kernel's (moby: daemon.ContainerKill)."""

    def __init__(self, number: str) -> None:
        super().__init__(f"the linux daemon does not support signal {number}")


def parse_to_kill(text: str) -> int:
    """What is sent right away; a number that no signal has is told apart from what is no number."""
    try:
        return parse(text)
    except InvalidSignal:
        if _is_other_number(text):
            raise UnsupportedSignal(text.removeprefix("+")) from None
        raise


def _is_other_number(text: str) -> bool:
    return text.lstrip("+-").isdecimal() and bool(text.strip("+-0"))


def parse(text: str) -> int:
    """The signal's number; raises InvalidSignal. Zero is no signal."""
    if text.lstrip("+-").isdecimal():
        number = int(text) if len(text) < 10 else 0  # int() refuses thousands of digits
        if not 0 < number <= _RTMAX:
            raise InvalidSignal(text)
        return number
    try:
        return _NAMES[text.upper().removeprefix("SIG")]
    except KeyError:
        raise InvalidSignal(text) from None


def check_stop_signal(text: str) -> None:
    """Raises InvalidSignal; any number but zero will do, as its container may never be stopped."""
    if not _is_other_number(text):
        parse(text)


def stop_signal(text: str | None) -> int:
    """The signal that asks a container to stop; what does not parse is SIGTERM, as in dockerd."""
    try:
        return parse(text) if text else SIGTERM
    except InvalidSignal:
        return SIGTERM
