"""Filters of lists and prunes."""

from __future__ import annotations

import pytest

from engine import filters
from engine.errors import EngineError, InvalidParameter
from engine.ids import NetworkId
from engine.network import filters as network_filters
from engine.network.model import Member, Network, NetworkView


def view(
    name: str,
    *,
    driver: str = "bridge",
    labels: dict[str, str] | None = None,
    is_used: bool = False,
) -> NetworkView:
    network = Network(
        id=NetworkId(name.encode().hex()),
        name=name,
        created_ns=1,
        driver=driver,
        labels=labels or {},
    )
    member = Member(
        container_id="c",
        name="c",
        endpoint_id="e",
        mac_address="",
        ipv4_address="",
        ipv6_address="",
    )
    return NetworkView(network=network, members=(member,) if is_used else ())


VIEWS = [
    view("bridge"),
    view("none", driver="null"),
    view("web", labels={"env": "prod"}),
    view("web-test", labels={"env": "test", "x": ""}, is_used=True),
]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, ["bridge", "none", "web", "web-test"]),
        ({"name": ["web"]}, ["web", "web-test"]),
        ({"name": ["^web$"]}, ["web"]),
        ({"name": ["none", "bri"]}, ["bridge", "none"]),
        ({"driver": ["null"]}, ["none"]),
        ({"label": ["env"]}, ["web", "web-test"]),
        ({"label": ["env=prod"]}, ["web"]),
        ({"label": ["env=test", "x"]}, ["web-test"]),
        ({"type": ["builtin"]}, ["bridge", "none"]),
        ({"type": ["custom"]}, ["web", "web-test"]),
        ({"dangling": ["true"]}, ["web"]),
        ({"dangling": ["0"]}, ["bridge", "none", "web-test"]),
        ({"scope": ["swarm"]}, []),
        ({"id": [b"none".hex()]}, ["none"]),
        ({"name": ["("]}, []),
    ],
)
def test_selection(wanted: dict[str, list[str]], found: list[str]) -> None:
    assert [v.network.name for v in network_filters.select(VIEWS, wanted)] == found


def test_refusals() -> None:
    with pytest.raises(InvalidParameter, match="invalid filter 'foo'"):
        network_filters.select(VIEWS, {"foo": ["x"]})
    with pytest.raises(EngineError, match="invalid filter: 'type'='x'"):
        network_filters.select(VIEWS, {"type": ["x"]})
    with pytest.raises(InvalidParameter, match="got more than one value"):
        network_filters.select(VIEWS, {"dangling": ["true", "false"]})
    with pytest.raises(InvalidParameter, match="invalid value for filter 'dangling'"):
        network_filters.select(VIEWS, {"dangling": ["maybe"]})


def test_labels_of_a_prune() -> None:
    labels = {"a": "1", "b": "2"}
    assert filters.passes_labels({}, labels)
    assert filters.passes_labels({"label": ["a"], "label!": ["b=3"]}, labels)
    assert not filters.passes_labels({"label!": ["a"]}, labels)
    assert not filters.passes_labels({"label": ["c"]}, labels)


@pytest.mark.parametrize(
    ("values", "meant"),
    [(["1"], True), (["false"], False), (["1", "true"], True), (["maybe", "0"], False)],
)
def test_truth(values: list[str], meant: bool) -> None:
    assert filters.truth({"is": values}, "is") is meant
    assert filters.truth({}, "is") is None


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (["x"], "invalid filter 'is=[x]'"),
        (["T"], "invalid filter 'is=[T]'"),
        (["true", "0"], "invalid filter 'is=[true 0]'"),
        ([""], "invalid filter 'is=[]'"),
        ([], "invalid filter 'is'"),
    ],
)
def test_no_truth(values: list[str], sentence: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        filters.truth({"is": values}, "is")
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (["x"], "invalid filter 'all': strconv.ParseBool: parsing \"x\": invalid syntax"),
        (["1", "true"], "invalid filter 'all=[1 true]': only one value is expected"),
    ],
)
def test_truth_of_one_value(values: list[str], sentence: str) -> None:
    assert filters.single_truth({"all": ["T"]}, "all") is True
    assert filters.single_truth({"all": []}, "all") is None
    with pytest.raises(InvalidParameter) as refused:
        filters.single_truth({"all": values}, "all")
    assert str(refused.value) == sentence


def test_time() -> None:
    assert filters.until_ns({}) is None
    assert filters.until_ns({"until": ["100"]}) == 100 * 10**9
    with pytest.raises(InvalidParameter, match="more than one until filter"):
        filters.until_ns({"until": ["1", "2"]})
    with pytest.raises(InvalidParameter):
        filters.until_ns({"until": ["soon"]})
