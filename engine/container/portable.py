"""A container's config as the document of an image has it, and back. Pure."""

from __future__ import annotations

from engine.container import model
from engine.oci import image as oci

_EMPTY: dict[str, object] = {}


def to_image(config: model.Config) -> oci.Config:
    """In an image's document nothing and an empty list are told apart where dockerd does."""
    return oci.Config(
        hostname=config.hostname,
        domainname=config.domainname,
        user=config.user,
        attach_stdin=config.attach_stdin,
        attach_stdout=config.attach_stdout,
        attach_stderr=config.attach_stderr,
        exposed_ports=_set(config.exposed_ports),
        tty=config.tty,
        open_stdin=config.open_stdin,
        stdin_once=config.stdin_once,
        env=config.env or None,
        cmd=config.cmd,
        healthcheck=None if config.healthcheck is None else _check_to_image(config.healthcheck),
        args_escaped=config.args_escaped,
        image=config.image,
        volumes=_set(config.volumes),
        working_dir=config.working_dir,
        entrypoint=config.entrypoint,
        network_disabled=config.network_disabled,
        mac_address=config.mac_address,
        on_build=config.on_build,
        labels=dict(config.labels),
        stop_signal=config.stop_signal or "",
        stop_timeout=config.stop_timeout_s,
        shell=config.shell,
    )


def _set(names: tuple[str, ...]) -> dict[str, dict[str, object]] | None:
    return dict.fromkeys(names, _EMPTY) or None


def _check_to_image(check: model.Healthcheck) -> oci.Healthcheck:
    return oci.Healthcheck(
        test=check.test or None,
        interval=check.interval_ns,
        timeout=check.timeout_ns,
        start_period=check.start_period_ns,
        start_interval=check.start_interval_ns,
        retries=check.retries,
    )


def of_image(config: oci.Config) -> model.Config:
    return model.Config(
        hostname=config.hostname,
        domainname=config.domainname,
        user=config.user,
        attach_stdin=config.attach_stdin,
        attach_stdout=config.attach_stdout,
        attach_stderr=config.attach_stderr,
        exposed_ports=tuple(config.exposed_ports or ()),
        tty=config.tty,
        open_stdin=config.open_stdin,
        stdin_once=config.stdin_once,
        env=config.env or (),
        cmd=config.cmd,
        healthcheck=None if config.healthcheck is None else _check_of_image(config.healthcheck),
        args_escaped=config.args_escaped,
        image=config.image,
        volumes=tuple(config.volumes or ()),
        working_dir=config.working_dir,
        entrypoint=config.entrypoint,
        network_disabled=config.network_disabled,
        mac_address=config.mac_address,
        on_build=config.on_build,
        labels=config.labels or {},
        stop_signal=config.stop_signal or None,
        stop_timeout_s=config.stop_timeout,
        shell=config.shell,
    )


def _check_of_image(check: oci.Healthcheck) -> model.Healthcheck:
    return model.Healthcheck(
        test=check.test or (),
        interval_ns=check.interval,
        timeout_ns=check.timeout,
        start_period_ns=check.start_period,
        start_interval_ns=check.start_interval,
        retries=check.retries,
    )
