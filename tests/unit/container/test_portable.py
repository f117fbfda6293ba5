"""A config keeps what it says on its way into an image's document and back."""

from __future__ import annotations

import msgspec

from engine.container import portable
from engine.container.model import Config, Healthcheck

FULL = Config(
    image="busybox",
    hostname="h",
    domainname="d",
    user="u",
    attach_stdin=True,
    attach_stdout=True,
    attach_stderr=True,
    exposed_ports=("80/tcp",),
    tty=True,
    open_stdin=True,
    stdin_once=True,
    env=("A=1",),
    cmd=("c",),
    entrypoint=("e",),
    args_escaped=True,
    healthcheck=Healthcheck(
        test=("CMD", "x"),
        interval_ns=1,
        timeout_ns=2,
        start_period_ns=3,
        start_interval_ns=4,
        retries=5,
    ),
    volumes=("/v",),
    working_dir="/w",
    network_disabled=True,
    mac_address="02:00:00:00:00:01",
    on_build=("RUN x",),
    labels={"l": "1"},
    stop_signal="SIGINT",
    stop_timeout_s=7,
    shell=("/bin/sh",),
)


def test_nothing_is_lost() -> None:
    defaults = Config()
    for field in msgspec.structs.fields(Config):
        assert getattr(FULL, field.name) != getattr(defaults, field.name), field.name
    assert portable.of_image(portable.to_image(FULL)) == FULL
    assert portable.of_image(portable.to_image(defaults)) == defaults


def test_an_empty_command_is_not_none() -> None:
    config = Config(cmd=(), entrypoint=())
    assert portable.of_image(portable.to_image(config)) == config
