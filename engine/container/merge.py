"""An image's config under a container's own: what was not said is inherited."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine.container.model import Config, Healthcheck
from engine.errors import InvalidParameter

if TYPE_CHECKING:
    from engine.oci import image as oci


def merge(config: Config, image: oci.Config | None) -> Config:
    """The config a container runs with; raises if it has no command."""
    merged = config if image is None else inherit(config, image)
    if merged.entrypoint == ("",):
        merged = msgspec.structs.replace(merged, entrypoint=None)
    if not merged.entrypoint and not merged.cmd:
        raise InvalidParameter("no command specified")
    return merged


def inherit(config: Config, image: oci.Config) -> Config:
    """What `config` does not say, as `image` has it (moby daemon/commit.go merge).

    Entrypoint and cmd are inherited together: a new entrypoint drops the image's command.
    """
    entrypoint, cmd = config.entrypoint, config.cmd
    if not entrypoint:
        cmd = cmd if cmd else image.cmd
        entrypoint = image.entrypoint if entrypoint is None else entrypoint
    return msgspec.structs.replace(
        config,
        user=config.user or image.user,
        exposed_ports=_union(config.exposed_ports, image.exposed_ports or {}),
        env=merge_env(config.env, image.env or ()),
        labels={**(image.labels or {}), **config.labels},
        entrypoint=entrypoint,
        cmd=cmd,
        healthcheck=_healthcheck(config.healthcheck, image.healthcheck),
        working_dir=config.working_dir or image.working_dir,
        volumes=_union(config.volumes, image.volumes or {}),
        stop_signal=config.stop_signal or image.stop_signal or None,
    )


def _union(own: tuple[str, ...], inherited: dict[str, dict[str, object]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*own, *inherited]))


def merge_env(own: tuple[str, ...], inherited: tuple[str, ...]) -> tuple[str, ...]:
    """Own entries first, then the inherited ones whose names are not among them."""
    names = {entry.partition("=")[0] for entry in own}
    return (*own, *(entry for entry in inherited if entry.partition("=")[0] not in names))


def _healthcheck(own: Healthcheck | None, inherited: oci.Healthcheck | None) -> Healthcheck | None:
    if inherited is None:
        return own
    own = own or Healthcheck()
    return Healthcheck(
        test=own.test or inherited.test or (),
        interval_ns=own.interval_ns or inherited.interval,
        timeout_ns=own.timeout_ns or inherited.timeout,
        start_period_ns=own.start_period_ns or inherited.start_period,
        start_interval_ns=own.start_interval_ns or inherited.start_interval,
        retries=own.retries or inherited.retries,
    )


def command(config: Config) -> tuple[str, tuple[str, ...]]:
    """(path, args): the entrypoint with cmd behind it, split after the first word."""
    words = (*(config.entrypoint or ()), *(config.cmd or ()))
    return words[0], words[1:]
