"""Restart policies: what they want of a container, and who acts upon them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.container import modes
from engine.container.model import RestartPolicyName
from engine.runtime import protocol
from engine.runtime.monitor import restart as rules

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.container.model import Container, RestartPolicy
    from engine.runtime.protocol import Exit, Json


def document(policy: RestartPolicy, count: int) -> protocol.Restart | None:
    """As the runtime has it; None for no policy."""
    if policy.name is RestartPolicyName.NO:
        return None
    return protocol.Restart(
        name=str(policy.name), maximum_retry_count=policy.maximum_retry_count, count=count
    )


def for_monitor(container: Container, *, count: int = 0) -> Json | None:
    """For the container's monitor; None where there is no policy, or the engine acts upon it.

    Namespaces of another container are found anew at each start, by the engine alone.
    """
    wanted = document(container.host_config.restart_policy, count)
    if wanted is None or any(donors(container)):
        return None
    return wanted.to_json()


def donors(container: Container) -> Iterator[str]:
    """The containers that it shares namespaces of, as they were named."""
    host_config = container.host_config
    for mode in (host_config.network_mode, host_config.pid_mode, host_config.ipc_mode):
        if donor := modes.other(mode):
            yield donor


def is_wanted(container: Container) -> bool:
    """Whether one that does not run, and did once, shall be started when the engine starts."""
    state = container.state
    return state.started_ns > 0 and rules.applies(
        document(container.host_config.restart_policy, state.restart_count),
        code=state.exit_code,
        is_stopped=state.is_manually_stopped,
    )


def is_settled(how: Exit) -> bool:
    """The monitor knew the policy, and has decided that this is the end."""
    return how.failure is not None or (how.count is not None and how.again_ns is None)


def next_count(container: Container, how: Exit) -> int | None:
    """Which restart it is that the engine owes the container after this exit; None for none."""
    if is_settled(how) or container.state.is_manually_stopped:
        return None
    count = container.state.restart_count if how.count is None else how.count
    if how.again_ns:
        return count  # the monitor had decided for it, and was killed before
    wanted = document(container.host_config.restart_policy, count)
    return count + 1 if rules.applies(wanted, code=how.code, is_stopped=False) else None


def order(needs: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """Ids in groups to be started one after the other, each behind those that it needs.

    What is needed and is no key is not waited for. Those that need each other come last, together.
    """
    left = {key: (wanted & needs.keys()) - {key} for key, wanted in needs.items()}
    groups: list[list[str]] = []
    while left:
        ready = [key for key, wanted in left.items() if not wanted & left.keys()] or list(left)
        groups.append(ready)
        for key in ready:
            del left[key]
    return groups
