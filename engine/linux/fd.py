"""Who a descriptor belongs to, where it goes from hand to hand."""

from __future__ import annotations

import os


class OwnedFd:
    """A descriptor that is closed once, by whoever has it last; -1 for none."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __bool__(self) -> bool:
        return self._fd >= 0

    def fileno(self) -> int:
        return self._fd

    def take(self) -> int:
        """The descriptor, which is the caller's from here on."""
        fd, self._fd = self._fd, -1
        return fd

    def close(self) -> None:
        """Unless it was taken; idempotent."""
        if self:
            os.close(self.take())
