"""Who reaches what, on whichever engine is asked: the table, row by row."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from engine.linux import netlink
from engine.linux import nftables as nft
from tests.e2e.reachability import scene
from tests.e2e.reachability.table import SCENES
from tests.support.internet import Internet, internet
from tests.support.questions import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine, Wharf


@pytest.fixture(scope="module")
def net(engine: Engine) -> Iterator[Internet]:
    """The machines outside, and a container on a network that no scene is about."""
    name = scene.STRANGER
    subnets = ("--ipv6", "--subnet", "10.231.9.0/24", "--subnet", "fd00:231:9::/64")
    with contextlib.ExitStack() as stack:
        machines = stack.enter_context(internet())
        for namespace in (machines.neighbour, machines.far):
            stack.enter_context(serving(namespace, (scene.OUTSIDE,)))
        stack.callback(engine.docker, "network", "rm", name, check=False)
        stack.callback(engine.docker, "rm", "-f", name, check=False)
        engine.docker("network", "create", *subnets, name)
        engine.docker("run", "-d", "--name", name, "--network", name, "busybox", "sleep", "3600")
        yield machines


@pytest.mark.stock
@pytest.mark.parametrize("row", SCENES, ids=lambda row: row.name.replace(" ", "-"))
def test_who_reaches_what(row: scene.Scene, engine: Engine, net: Internet, name: str) -> None:
    assert scene.play(row, engine, net, name) == scene.expected(row, is_wharf=engine.is_wharf)


@pytest.mark.beyond
@pytest.mark.parametrize(
    "which", ["a network", "at 127.0.0.1", "internal", "without icc", "routed"]
)
def test_a_second_after_the_table_was_flushed(
    which: str, wharf: Wharf, net: Internet, name: str
) -> None:
    row = next(row for row in SCENES if row.name == which)
    with scene.played(row, wharf, net, name) as stage:
        with netlink.Socket(netlink.NETLINK_NETFILTER) as sock:
            nft.commit(sock, [nft.delete_table(nft.NFPROTO_INET, f"wharf-{wharf.instance}")])
        time.sleep(1)
        assert stage.ask() == scene.expected(row, is_wharf=True)
