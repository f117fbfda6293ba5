"""The environment of a container's processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.container.model import Config

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def of_container(config: Config, *, tty: bool, links: Iterable[str] = ()) -> tuple[str, ...]:
    """Docker's defaults under the container's own entries."""
    defaults = [f"PATH={PATH}", f"HOSTNAME={config.hostname}"]
    defaults += ["TERM=xterm"] if tty else []
    return override([*defaults, *links], config.env)


def override(base: Iterable[str], entries: Iterable[str]) -> tuple[str, ...]:
    """`NAME=value` replaces or appends, `NAME` alone removes; order stays."""
    result: dict[str, str | None] = {entry.partition("=")[0]: entry for entry in base}
    for entry in entries:
        name, separator, _ = entry.partition("=")
        if separator:
            result[name] = entry
        elif name in result:
            result[name] = None
    return tuple(entry for entry in result.values() if entry is not None)


def with_home(env: tuple[str, ...], home: str) -> tuple[str, ...]:
    """HOME by the user's passwd entry, unless something was said."""
    if any(entry.startswith("HOME=") for entry in env):
        return env
    return (*env, f"HOME={home or '/'}")
