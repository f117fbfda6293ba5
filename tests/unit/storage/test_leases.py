"""What is held is not swept, however close the two come to each other."""

from __future__ import annotations

import threading

from engine.storage.leases import Lease, Leases


def test_only_what_nobody_holds_is_let_go() -> None:
    leases = Leases()
    gone: list[str] = []
    with Lease(leases) as lease:
        lease.add("held")
        leases.unless_held("held", lambda: gone.append("held"))
        leases.unless_held("other", lambda: gone.append("other"))
    leases.unless_held("held", lambda: gone.append("held, later"))
    assert gone == ["other", "held, later"]


def test_whoever_begins_to_hold_it_finds_it_gone_or_there() -> None:
    """Never there at the look, and gone behind it."""
    leases = Leases()
    is_there = True
    in_between, has_looked = threading.Event(), threading.Event()

    def delete() -> None:
        nonlocal is_there
        in_between.set()
        has_looked.wait(0.2)  # in vain: the other waits for this to end
        is_there = False

    def hold() -> None:
        in_between.wait(10)
        with Lease(leases) as lease:
            lease.add("blob")
            found.append(is_there)
            has_looked.set()

    found: list[bool] = []
    holding = threading.Thread(target=hold)
    holding.start()
    leases.unless_held("blob", delete)
    holding.join(10)
    assert found == [False]
