"""The words of the kernel's refusals, as Go writes them: what clients read, and decide by.

The C library begins them with a capital letter, Python puts its own number in front. Stock clients
look for "no such file or directory" and the like as Go's syscall.Errno says it.
"""

from __future__ import annotations

import os


def reason(error: OSError) -> str:
    """Why, without what: "no such file or directory". Words of our own stay as they are."""
    if error.errno is None or not error.strerror:
        return str(error)
    text = os.strerror(error.errno)
    return text.lower() if error.strerror == text else error.strerror


def sentence(error: OSError) -> str:
    """The reason behind the path that it is about, if one is known."""
    name = error.filename
    if name is None or isinstance(name, int) or not error.strerror:
        return reason(error)
    return f"{os.fsdecode(name)}: {reason(error)}"
