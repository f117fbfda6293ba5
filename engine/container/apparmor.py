"""Which AppArmor profile confines a container, and the one that confines those who name none.

AppArmor counts as on where the kernel enforces it here and this engine can do something with it:
`docker-default` is loaded, or apparmor_parser is there to load it. The kernel takes compiled policy
only and no library compiles it, so that program is called, by its full path.
"""

from __future__ import annotations

import logging
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT = "docker-default"
UNCONFINED = "unconfined"

_PARSERS = ("/sbin/apparmor_parser", "/usr/sbin/apparmor_parser")
_PARSER_TIMEOUT_S = 30.0

log = logging.getLogger(__name__)


class CannotLoad(EngineError):
    def __init__(self, reason: str) -> None:
        super().__init__(
            f"AppArmor enabled on system but the {DEFAULT} profile could not be loaded: {reason}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """`has_default`: the profile is in the kernel. `parser` is "" where there is none."""

    is_on: bool
    has_default: bool
    parser: str

    @property
    def is_usable(self) -> bool:
        return self.is_on and (self.has_default or bool(self.parser))


def look(root: str = "/") -> Host:
    """Reads files below `root`, which is the host's but in tests."""
    security = os.path.join(root, "sys/kernel/security/apparmor")
    enabled = _read(os.path.join(root, "sys/module/apparmor/parameters/enabled"))
    # A container manager, which sets this variable for what it runs, keeps policy to itself.
    is_ours = os.path.isdir(security) and not os.environ.get("container")  # noqa: SIM112
    loaded = _read(os.path.join(security, "profiles")).splitlines()
    parsers = (os.path.join(root, path[1:]) for path in _PARSERS)
    return Host(
        is_on=is_ours and enabled.startswith("Y"),
        has_default=any(line.startswith(f"{DEFAULT} (") for line in loaded),
        parser=next((path for path in parsers if os.access(path, os.X_OK)), ""),
    )


def prepare() -> None:
    """At the daemon's start: load the default, or log why not. Blocks for the parser."""
    host = look()
    if host.is_on and not host.is_usable:
        log.warning(
            "AppArmor is on, but there is no apparmor_parser to load %s: containers run without it",
            DEFAULT,
        )
        return
    try:
        ensure(host)
    except CannotLoad as exc:
        log.error("%s", exc)  # what asks for it is refused later, with the same sentence


def profile(asked: str, *, privileged: bool, host: Host | None = None) -> str:
    """The profile's name, "" where AppArmor is off. Raises CannotLoad for the default one.

    Upgrades of the host's policy may have taken that out of the kernel: then it is loaded anew.
    """
    host = host or look()
    if not host.is_usable:
        return ""
    name = asked or (UNCONFINED if privileged else DEFAULT)
    if name == DEFAULT:
        ensure(host)
    return name


def ensure(host: Host) -> None:
    """Load the default profile unless it is there; raises CannotLoad."""
    if not host.is_usable or host.has_default:
        return
    command = [host.parser, "-Kr"]
    try:
        done = subprocess.run(
            command,
            input=default_text(own_label()).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={},
            timeout=_PARSER_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise CannotLoad(str(exc)) from exc
    if done.returncode != 0:
        output = done.stdout.decode("utf-8", "replace").strip()
        raise CannotLoad(
            f"running `{' '.join(command)}` failed with output: {output}: "
            f"exit status {done.returncode}"
        )
    log.info("AppArmor profile %s loaded", DEFAULT)


def own_label() -> str:
    """What confines this daemon and the monitors it starts."""
    text = _read("/proc/self/attr/apparmor/current") or _read("/proc/self/attr/current")
    return text.partition(" (")[0].strip("\0\n ") or UNCONFINED


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


# The profile: everything that is not mediated elsewhere (capabilities, namespaces, seccomp, file
# modes) is allowed, but for the doors from procfs and sysfs to the host.

_WRITES = "wklx"
_ALL = "rwklx"
_CLOSED = (
    "/proc/kcore",
    "/proc/sysrq-trigger",
    "/sys/devices/virtual/powercap/**",
    "/sys/firmware/**",
    "/sys/kernel/security/**",
)


def default_text(label: str = UNCONFINED) -> str:
    """The source of docker-default; `label` is that of the processes that send signals into it."""
    rules = "".join(f"  {rule},\n" for rule in _rules(label))
    flags = "attach_disconnected,mediate_deleted"
    return f"profile {DEFAULT} flags=({flags}) {{\n{rules}}}\n"


def _rules(label: str) -> Iterator[str]:
    yield from ("network", "unix", "capability", "file", "umount")
    yield "deny mount"
    for peer in dict.fromkeys((UNCONFINED, label)):
        yield f"signal (receive) peer={_quoted(peer)}"
        yield f"ptrace (readby, tracedby) peer={_quoted(peer)}"
    yield f"signal (send, receive) peer={DEFAULT}"
    yield f"ptrace (trace, read, tracedby, readby) peer={DEFAULT}"
    for pattern, access in _denied():
        yield f"deny {pattern} {access}"


def _denied() -> Iterator[tuple[str, str]]:
    """Of procfs processes' own folders and kernel/shm* stay writable, of sysfs fs/cgroup."""
    for pattern in _CLOSED:
        yield pattern, _ALL
    yield "/proc/*", "w"
    for pattern in _all_but("/proc/", "sys", also="1-9"):
        yield f"{pattern}/**", "w"
    for pattern in _all_but("/proc/sys/", "kernel"):
        yield f"{pattern}{{,/**}}", "w"
    for pattern in _all_but("/proc/sys/kernel/", "shm", is_prefix=True):
        yield f"{pattern}{{,/**}}", "w"
    for folder, name in (("/sys/", "fs"), ("/sys/fs/", "cgroup")):
        for pattern in _all_but(folder, name):
            yield f"{pattern}/**", _WRITES


def _all_but(folder: str, name: str, *, also: str = "", is_prefix: bool = False) -> Iterator[str]:
    """Patterns that together match every name in the folder but one.

    The grammar has no negation but that of one letter, so: those that differ in the first letter,
    those that differ in the second… and those that are shorter or, unless `name` is only a prefix,
    longer. `also` are first letters to leave out too.
    """
    for index, letter in enumerate(name):
        others = letter + also if index == 0 else letter
        yield f"{folder}{name[:index]}[^{others}]*"
        if index:
            yield f"{folder}{name[:index]}"
    if not is_prefix:
        yield f"{folder}{name}?*"


def _quoted(label: str) -> str:
    return label if label.replace("-", "").replace("_", "").isalnum() else f'"{label}"'
