"""Which system calls a container may make: its profile, compiled to the file that init loads.

The daemon's exec-root keeps the files, one for each profile and set of capabilities, so that only
the first start of its kind waits for libseccomp.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.container.seccomp import profile as grammar
from engine.container.seccomp import refusal
from engine.container.seccomp.resolve import architectures, kernel_of, select
from engine.errors import EngineError
from engine.linux import oserror, seccomp, syscalls
from engine.storage import atomic
from engine.version import VERSION

if TYPE_CHECKING:
    from engine.config import EngineConfig
    from engine.container.seccomp.profile import Profile

_UNCONFINED = "unconfined"
_BUILTIN = "builtin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """The file of a compiled filter, and the SECCOMP_FILTER_FLAG_* to load it with."""

    file: str
    flags: int


def prepare(config: EngineConfig, asked: str, capabilities: frozenset[str]) -> Filter | None:
    """The filter of a container, None to run without one. Blocks.

    `asked` is "" for the daemon's setting, "unconfined", "builtin", or a profile's text.
    `capabilities` is the container's bounding set ("CAP_…"). Raises SeccompProfileInvalid in
    dockerd's words, and EngineError without libseccomp or the daemon's file.
    """
    if (asked or config.seccomp_profile) == _UNCONFINED:
        return None
    text = b"" if asked == _BUILTIN else asked.encode() or daemon_profile(config)
    profile = grammar.parse(text) if text else grammar.default()
    file = os.path.join(
        config.exec_root, "seccomp", fingerprint(profile, capabilities=capabilities)
    )
    if not os.path.exists(file):
        atomic.write_file(file, compile(profile, capabilities=capabilities))
    if not os.path.getsize(file):
        return None  # a profile may ask for no filter at all
    return Filter(file=file, flags=filter_flags(profile))


def daemon_profile(config: EngineConfig) -> bytes:
    """The text that the daemon's setting names, b"" where it has no file; raises EngineError."""
    path = config.seccomp_profile
    if path in ("", _BUILTIN, _UNCONFINED):
        return b""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as exc:
        raise EngineError(
            f"opening seccomp profile ({path}) failed: open {oserror.sentence(exc)}"
        ) from exc


def compile(profile: Profile, *, capabilities: frozenset[str]) -> bytes:
    """A program for this machine, as `prepare` keeps it; b"" if the profile asks for no filter."""
    if profile.is_empty():
        return b""
    uname = os.uname()
    rules = select(
        profile,
        capabilities=capabilities,
        machine=uname.machine,
        kernel=kernel_of(uname.release),
    )
    arches = architectures(profile, uname.machine)
    refusal.check(profile, arches, rules)
    if not seccomp.is_available():
        raise EngineError("seccomp profiles need libseccomp, which is not installed on this host")
    try:
        return seccomp.compile(
            rules,
            architectures=arches,
            default_action=profile.default_action,
            default_errno_ret=profile.default_errno_ret,
        )
    except seccomp.RuleError as exc:
        raise refusal.of_rule(exc.syscall, oserror.reason(exc)) from exc


def fingerprint(profile: Profile, *, capabilities: frozenset[str]) -> str:
    """Names what `compile` would make of it here and now, for those who keep that: hex digits.

    Another text, another release of ours, another libseccomp or kernel give another name, so that
    an upgraded daemon goes on with no filter that an older one made.
    """
    uname = os.uname()
    facts = (profile.text, ",".join(sorted(capabilities)), uname.machine, uname.release)
    made_by = (VERSION, *seccomp.library_facts())
    return hashlib.sha256("\0".join((*facts, *made_by)).encode("utf-8", "replace")).hexdigest()


def filter_flags(profile: Profile) -> int:
    """Without any listed it is SPEC_ALLOW, as with runc."""
    if profile.flags is None:
        return syscalls.SECCOMP_FILTER_FLAG_SPEC_ALLOW
    flags = 0
    for name in profile.flags:
        flags |= refusal.FLAGS[name]
    return flags
