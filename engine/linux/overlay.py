"""overlayfs (Documentation/filesystems/overlayfs.rst): its marks on files and its mount options."""

from __future__ import annotations

import os

from engine.linux import mount

OPAQUE = "trusted.overlay.opaque"


def is_opaque(directory: int | str) -> bool:
    """Whether it hides what lies below it. No link is followed; a descriptor may be of O_PATH."""
    is_open = isinstance(directory, int)
    where = mount.at(directory) if isinstance(directory, int) else directory
    try:
        return os.getxattr(where, OPAQUE, follow_symlinks=is_open) == b"y"
    except OSError:
        return False


def escaped(path: str) -> str:
    """As options want it: a colon separates lower directories, a comma options."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
