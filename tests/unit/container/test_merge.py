from __future__ import annotations

import pytest

from engine.container.merge import command, merge
from engine.container.model import Config, Healthcheck
from engine.errors import InvalidParameter
from engine.oci import image as oci

IMAGE = oci.Config(
    user="bob",
    env=("PATH=/bin", "A=image"),
    entrypoint=("entry",),
    cmd=("cmd",),
    labels={"a": "image", "b": "image"},
    exposed_ports={"80/tcp": {}},
    volumes={"/data": {}},
    working_dir="/w",
    stop_signal="SIGINT",
    healthcheck=oci.Healthcheck(test=("CMD", "check"), retries=3),
)


def test_everything_is_inherited() -> None:
    merged = merge(Config(), IMAGE)
    assert command(merged) == ("entry", ("cmd",))
    assert (merged.user, merged.working_dir, merged.stop_signal) == ("bob", "/w", "SIGINT")
    assert (merged.exposed_ports, merged.volumes) == (("80/tcp",), ("/data",))
    assert merged.healthcheck == Healthcheck(test=("CMD", "check"), retries=3)


def test_what_was_said_wins() -> None:
    own = Config(user="root", env=("A=own", "B=own"), labels={"a": "own"}, working_dir="/own")
    merged = merge(own, IMAGE)
    assert merged.env == ("A=own", "B=own", "PATH=/bin")
    assert merged.labels == {"a": "own", "b": "image"}
    assert (merged.user, merged.working_dir) == ("root", "/own")


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (Config(cmd=("own",)), ("entry", ("own",))),
        (Config(entrypoint=("own",)), ("own", ())),
        (Config(entrypoint=("own",), cmd=("x",)), ("own", ("x",))),
        (Config(entrypoint=(), cmd=("x",)), ("x", ())),
        (Config(entrypoint=("",), cmd=("x",)), ("x", ())),
    ],
)
def test_a_new_entrypoint_drops_the_images_command(
    own: Config, expected: tuple[str, tuple[str, ...]]
) -> None:
    assert command(merge(own, IMAGE)) == expected


@pytest.mark.parametrize("own", [Config(), Config(entrypoint=("",))])
def test_no_command_at_all(own: Config) -> None:
    with pytest.raises(InvalidParameter, match=r"^no command specified$"):
        merge(own, oci.Config())


def test_without_an_image() -> None:
    assert command(merge(Config(cmd=("x", "y")), None)) == ("x", ("y",))
