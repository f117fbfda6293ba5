"""`docker ps` and its filters, over containers in memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from engine.container import listing
from engine.container.model import (
    Config,
    Container,
    Endpoint,
    HostConfig,
    ListQuery,
    MountPoint,
    MountType,
    PublishedPort,
    State,
    Status,
)
from engine.errors import InvalidParameter, NoSuchContainer
from engine.ids import ContainerId


def container(number: int, status: Status, **facts: Any) -> Container:
    given = {
        "id": ContainerId(f"{number:064x}"),
        "name": f"c{number}",
        "created_ns": number,
        "config": Config(),
        "host_config": HostConfig(),
        "image_id": "sha256:a",
        "state": State(status=status, started_ns=1),
    }
    return Container(**{**given, **facts})


WEB = container(
    3,
    Status.RUNNING,
    name="web",
    config=Config(labels={"app": "x", "tier": ""}, exposed_ports=("80/tcp", "53/udp")),
    ports=(PublishedPort(container_port=80, protocol="tcp", host_ip="", host_port=8080),),
    endpoints=(Endpoint(network_name="mine", network_id="n1"),),
    mount_points=(MountPoint(type=MountType.VOLUME, source="/v", destination="/d", name="vol"),),
)
DONE = container(
    2,
    Status.EXITED,
    config=Config(exposed_ports=("80/tcp",)),
    state=State(status=Status.EXITED, exit_code=3, started_ns=1),
)
FRESH = container(1, Status.CREATED, state=State())


class Store:
    def all(self) -> list[Any]:
        return [SimpleNamespace(container=c, state=c.state) for c in (FRESH, WEB, DONE)]

    def find(self, ref: str) -> Any:
        for handle in self.all():
            if handle.container.name == ref:
                return handle
        raise NoSuchContainer(ref)


class Images:
    def find(self, ref: str) -> Any:
        return SimpleNamespace(id="sha256:a", diff_ids=()) if ref == "img" else None

    def all(self) -> list[Any]:
        return []


ROOMS: Any = SimpleNamespace(store=Store(), images=Images())


def names(*, all: bool = True, limit: int = 0, **filters: str | tuple[str, ...]) -> list[str]:
    asked = {
        name.replace("_", "-"): (value,) if isinstance(value, str) else value
        for name, value in filters.items()
    }
    query = ListQuery(all=all, limit=limit, filters=asked)
    return [handle.container.name for handle in listing.select(ROOMS, query)]


def test_newest_first_and_only_what_runs() -> None:
    assert names() == ["web", "c2", "c1"]
    assert names(all=False) == ["web"]
    assert names(all=False, limit=2) == ["web", "c2"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"id": "0" * 63 + "3"}, ["web"]),
        ({"name": "^c"}, ["c2", "c1"]),
        ({"name": "^/web$"}, ["web"]),
        ({"name": ("web", "c1")}, ["web", "c1"]),
        ({"label": "app"}, ["web"]),
        ({"label": "app=x"}, ["web"]),
        ({"label": "app=y"}, []),
        ({"label": ("app", "tier=")}, ["web"]),
        ({"status": "exited"}, ["c2"]),
        ({"status": ("exited", "created")}, ["c2", "c1"]),
        ({"exited": "3"}, ["c2"]),
        ({"exited": "0"}, []),
        ({"before": "c2"}, ["c1"]),
        ({"since": "c1"}, ["web", "c2"]),
        ({"volume": "vol"}, ["web"]),
        ({"volume": "/d"}, ["web"]),
        ({"network": "mine"}, ["web"]),
        ({"network": "n1"}, ["web"]),
        ({"publish": "8080"}, ["web"]),
        ({"publish": "8000-8090/tcp"}, ["web"]),
        ({"publish": "8080/udp"}, []),
        ({"publish": "80"}, []),
        ({"expose": "80"}, ["web"]),
        ({"expose": "8080"}, []),
        ({"publish": "53/udp"}, []),
        ({"expose": "53/udp"}, ["web"]),
        ({"health": "none"}, ["web", "c2", "c1"]),
        ({"is_task": "false"}, ["web", "c2", "c1"]),
        ({"is_task": "true"}, []),
        ({"ancestor": "img"}, ["web", "c2", "c1"]),
        ({"ancestor": "other"}, []),
    ],
)
def test_filters(filters: dict[str, Any], expected: list[str]) -> None:
    assert names(**filters) == expected


@pytest.mark.parametrize(
    ("filters", "sentence"),
    [
        ({"foo": "x"}, "invalid filter 'foo'"),
        (
            {"status": "x"},
            "invalid filter 'status=x': invalid value for state (x): must be one of "
            "created, running, paused, restarting, removing, exited, dead",
        ),
        (
            {"exited": "x"},
            "invalid filter 'exited=x': strconv.Atoi: parsing \"x\": invalid syntax",
        ),
        (
            {"health": "x"},
            "invalid filter 'health=x': invalid value for health (x): must be one of "
            "none, starting, healthy, unhealthy",
        ),
        ({"is_task": "x"}, "invalid filter 'is-task=[x]'"),
        (
            {"expose": "70000"},
            "error while looking up for expose 70000: "
            'strconv.ParseUint: parsing "70000": value out of range',
        ),
        (
            {"publish": "5-3"},
            "error while looking up for publish 5-3: Invalid range specified for the Port: 5-3",
        ),
        (
            {"publish": "80-"},
            'error while looking up for publish 80-: strconv.ParseUint: parsing "": invalid syntax',
        ),
        (
            {"publish": "/tcp"},
            "error while looking up for publish /tcp: Empty string specified for ports.",
        ),
        ({"publish": "1:2"}, "filter for 'publish' should not contain ':': 1:2"),
    ],
)
def test_refused_filters(filters: dict[str, str], sentence: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        names(**filters)
    assert str(caught.value) == sentence


def test_bounds_do_not_bring_what_has_ended() -> None:
    assert names(all=False, since="c1") == ["web"]
    assert names(all=False, before="web") == []
    assert names(all=False, limit=5, before="web") == ["c2", "c1"]


def test_bounds_that_are_not_there() -> None:
    with pytest.raises(NoSuchContainer):
        names(before="nope")
