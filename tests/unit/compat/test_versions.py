"""Versions: which are served, and what older ones do not know."""

from __future__ import annotations

import msgspec
import pytest

from compat import versions
from compat.versions import parse, shape
from compat.wire import containers, images, system
from compat.wire.base import UNSET
from engine.errors import InvalidParameter


@pytest.mark.parametrize("text", ["1.24", "1.51", "1.30", "1.51.0"])
def test_served(text: str) -> None:
    assert parse(text)[:2] == tuple(int(p) for p in text.split(".")[:2])


@pytest.mark.parametrize("text", ["1.52", "1.51.2", "2", "2.0", "1.999999999999999999"])
def test_too_new(text: str) -> None:
    with pytest.raises(versions.TooNew) as caught:
        parse(text)
    sentence = f"client version {text} is too new. Maximum supported API version is 1.51"
    assert str(caught.value) == sentence


@pytest.mark.parametrize("text", ["1.23", "1", "0.9", "1..51", "."])
def test_too_old(text: str) -> None:
    with pytest.raises(versions.TooOld) as caught:
        parse(text)
    assert str(caught.value) == (
        f"client version {text} is too old. Minimum supported API version is 1.24, "
        "please upgrade your client to a newer version"
    )


def test_the_newest_shape_is_the_thing_itself() -> None:
    body = containers.ContainerCreateRequest(image="a")
    assert shape(body, versions.NEWEST) is body


def test_a_request_loses_what_its_version_does_not_know() -> None:
    body = containers.ContainerCreateRequest(
        image="a",
        healthcheck=containers.HealthConfig(start_interval=5, retries=3),
        host_config=containers.HostConfig(
            annotations={"a": "b"},
            console_size=(1, 2),
            mounts=(containers.Mount(bind_options=containers.BindOptions(non_recursive=True)),),
        ),
    )
    old = shape(body, parse("1.39"))
    assert old.healthcheck == containers.HealthConfig(retries=3)
    assert old.host_config is not None
    assert old.host_config.annotations is UNSET
    assert old.host_config.console_size == (0, 0)
    assert old.host_config.mounts == (containers.Mount(bind_options=containers.BindOptions()),)
    assert shape(body, parse("1.50")) == body


def test_what_would_mislead_is_refused() -> None:
    options = containers.BindOptions(read_only_force_recursive=True)
    body = containers.HostConfig(mounts=(containers.Mount(bind_options=options),))
    with pytest.raises(InvalidParameter, match=r"needs API v1.44 or newer"):
        shape(body, parse("1.43"))
    assert shape(body, parse("1.44")) == body


def image(**changes: object) -> images.ImageSummary:
    given = {
        "containers": 2,
        "created": 0,
        "id": "sha256:1",
        "labels": None,
        "parent_id": "",
        "repo_digests": (),
        "repo_tags": (),
        "shared_size": -1,
        "size": 7,
    }
    return images.ImageSummary(**{**given, **changes})  # type: ignore[arg-type]


def test_a_response_gains_what_older_versions_had() -> None:
    old = shape(image(), parse("1.24"))
    assert (old.virtual_size, old.containers) == (7, -1)
    assert (old.repo_tags, old.repo_digests) == (("<none>:<none>",), ("<none>@<none>",))
    assert shape(image(), parse("1.43")).repo_tags == ()
    assert shape(image(), parse("1.44")).virtual_size is UNSET
    assert shape(image(), parse("1.51")).containers == 2
    tagged = shape(image(repo_tags=("a:1",)), parse("1.42"))
    assert (tagged.repo_tags, tagged.repo_digests) == (("a:1",), None)


def test_lists_are_shaped_item_by_item() -> None:
    assert [i.virtual_size for i in shape([image(), image()], parse("1.40"))] == [7, 7]


def test_what_stands_in_a_map_is_shaped_too() -> None:
    runtimes = {"a": system.Runtime(path="p", status={"x": "y"})}
    encoded = msgspec.json.encode({name: shape(r, parse("1.43")) for name, r in runtimes.items()})
    assert encoded == b'{"a":{"path":"p"}}'


def test_behaviour_begins_with_a_version() -> None:
    assert versions.has(parse("1.42"), "streams.multiplexed-type")
    assert not versions.has(parse("1.41"), "streams.multiplexed-type")
