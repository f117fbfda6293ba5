"""Which events a filter lets through, and how they look."""

from __future__ import annotations

import json

import msgspec
import pytest

from compat.translate import events, system
from engine.events import Event

ID = "4fab" * 16
START = Event(
    type="container",
    action="start",
    actor_id=ID,
    attributes={"image": "busybox:1", "name": "web", "app": "x"},
    time_ns=1_700_000_000_000_000_005,
)
EXEC = Event(type="container", action="exec_create: ls -l ", actor_id=ID, time_ns=1)
PULL = Event(
    type="image", action="pull", actor_id="busybox:1", attributes={"name": "busybox"}, time_ns=1
)
NAMELESS = Event(type="container", action="prune", actor_id="", time_ns=1)


@pytest.mark.parametrize(
    ("event", "filters"),
    [
        (START, {}),
        (START, {"event": ("start", "die")}),
        (START, {"type": ("container",)}),
        (START, {"container": ("we",)}),
        (START, {"container": ("4f",)}),
        (START, {"label": ("app",)}),
        (START, {"label": ("app=x", "name=web")}),
        (START, {"image": ("busybox",)}),
        (START, {"image": ("busybox:1",)}),
        (START, {"image": (ID,)}),
        (START, {"scope": ("local",)}),
        (START, {"nobody-knows-this": ("x",)}),
        (EXEC, {"event": ("exec_create",)}),
        (PULL, {"image": ("busybox",)}),
    ],
)
def test_lets_through(event: Event, filters: dict[str, tuple[str, ...]]) -> None:
    assert events.matches(event, filters)


@pytest.mark.parametrize(
    ("event", "filters"),
    [
        (START, {"event": ("star",)}),
        (START, {"type": ("image",)}),
        (START, {"container": ("other",)}),
        (START, {"label": ("app=y",)}),
        (START, {"label": ("app", "missing")}),
        (START, {"image": ("alpine",)}),
        (START, {"scope": ("swarm",)}),
        (EXEC, {"image": ("alpine",)}),
        (NAMELESS, {"image": ("alpine",)}),
        (START, {"event": ("start",), "container": ("other",)}),
        (EXEC, {"event": ("exec_die",)}),
        (PULL, {"container": ("web",)}),
    ],
)
def test_keeps_back(event: Event, filters: dict[str, tuple[str, ...]]) -> None:
    assert not events.matches(event, filters)


def encoded(event: Event) -> dict[str, object]:
    shown: dict[str, object] = json.loads(msgspec.json.encode(system.event(event)))
    return shown


def test_containers_are_told_of_twice() -> None:
    assert list(encoded(START)) == (
        [
            "status",
            "id",
            "from",
            "Type",
            "Action",
            "Actor",
            "scope",
            "time",
            "timeNano",
        ]
    )
    assert encoded(START)["from"] == "busybox:1"
    assert encoded(START)["time"] == 1_700_000_000


def test_images_have_no_image_of_their_own_and_networks_are_told_of_once() -> None:
    assert list(encoded(PULL)) == [
        "status",
        "id",
        "Type",
        "Action",
        "Actor",
        "scope",
        "time",
        "timeNano",
    ]
    network = Event(type="network", action="connect", actor_id="n", time_ns=1)
    assert list(encoded(network)) == ["Type", "Action", "Actor", "scope", "time", "timeNano"]


def test_what_happened_to_nobody_in_particular_has_no_id() -> None:
    event = Event(type="image", action="prune", actor_id="", attributes={}, time_ns=1)
    shown: dict[str, object] = json.loads(msgspec.json.encode(system.event(event)))
    assert "id" not in shown
    assert shown["Actor"] == {"ID": "", "Attributes": {}}
