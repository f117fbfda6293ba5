"""Which AppArmor profile confines a container, where the host has AppArmor."""

from __future__ import annotations

import logging

DEFAULT = "docker-default"
UNCONFINED = "unconfined"

_ENABLED = "/sys/module/apparmor/parameters/enabled"
_PROFILES = "/sys/kernel/security/apparmor/profiles"

log = logging.getLogger(__name__)


def profile(asked: str, *, privileged: bool) -> str:
    """The profile's name, "" where AppArmor is off or Docker's own is not loaded. Reads files."""
    if not _read(_ENABLED).startswith("Y"):
        return ""
    if asked:
        return asked
    if privileged:
        return UNCONFINED
    if is_loaded(DEFAULT):
        return DEFAULT
    log.warning("AppArmor is on and %s is not loaded: containers run without it", DEFAULT)
    return ""


def is_loaded(name: str) -> bool:
    return any(line.startswith(f"{name} (") for line in _read(_PROFILES).splitlines())


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
