"""Limits one by one: a value for a file of a control group, and what a refusal is told as."""

from __future__ import annotations

import errno
import os

from engine.linux.cgroup import file


class LimitError(OSError):
    """A limit that the kernel refused; `str()` is the sentence of the reference runtime."""

    def __init__(self, number: int, sentence: str) -> None:
        super().__init__(number, sentence)
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


class Setting:
    """`value` goes to `file`; where that is missing: `fallback`, or nothing if optional."""

    __slots__ = ("controller", "fallback", "file", "is_optional", "value")

    def __init__(
        self,
        controller: str,
        file: str,
        value: str,
        *,
        is_optional: bool = False,
        fallback: Setting | None = None,
    ) -> None:
        self.controller = controller
        self.file = file
        self.value = value
        self.is_optional = is_optional
        self.fallback = fallback

    def facts(self) -> tuple[str, str, str]:
        return (self.controller, self.file, self.value)

    def __repr__(self) -> str:
        return f"Setting{self.facts()}"


def write(path: str, value: str) -> None:
    """`file.write`, a refusal told as a `LimitError`."""
    try:
        file.write(path, value)
    except OSError as exc:
        number = exc.errno or 0
        if number in (errno.ENOENT, errno.EACCES, errno.EPERM):
            sentence = f"open {path}: {file.reason(number)}"
        else:
            sentence = f'failed to write "{value}": write {path}: {file.reason(number)}'
        raise LimitError(number, sentence) from exc


def carry_out(directory: str, setting: Setting) -> None:
    """Carry out one setting of a plan in `directory`."""
    try:
        write(os.path.join(directory, setting.file), setting.value)
    except LimitError as exc:
        if exc.errno != errno.ENOENT or not os.path.isdir(directory):
            raise
        if setting.fallback is not None:
            carry_out(directory, setting.fallback)
        elif not setting.is_optional:
            raise


def as_found(directory: str, setting: Setting) -> Setting | None:
    """What sets the same file to the value that it has now; None where there is no such file.

    Of a file with a line a device, the first is the group's own.
    """
    try:
        text = file.read(os.path.join(directory, setting.file))
    except OSError:
        return None if setting.fallback is None else as_found(directory, setting.fallback)
    # A write of no byte at all does nothing; a line without any empties a cpuset.
    return Setting(setting.controller, setting.file, text.partition("\n")[0] or "\n")
