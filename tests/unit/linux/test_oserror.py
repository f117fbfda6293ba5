"""The kernel's refusals in Go's words."""

from __future__ import annotations

import errno
import os

import pytest

from engine.linux.oserror import reason, sentence


@pytest.mark.parametrize(
    ("error", "why", "said"),
    [
        (OSError(errno.ENOENT, os.strerror(errno.ENOENT), "/A"), "no such file or directory", "/A"),
        (OSError(errno.EIO, os.strerror(errno.EIO), b"/b"), "input/output error", "/b"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), 7), "permission denied", ""),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), "permission denied", ""),
        (OSError(errno.EPERM, "mount /A:/B: not for You"), "mount /A:/B: not for You", ""),
        (OSError("No errno at all"), "No errno at all", ""),
    ],
)
def test_reasons_and_sentences(error: OSError, why: str, said: str) -> None:
    assert reason(error) == why
    assert sentence(error) == (f"{said}: {why}" if said else why)
