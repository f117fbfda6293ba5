"""The restart policy: whether a container that ended is started again, and when.

Pure. The rules and times are those of moby's restartmanager: 100 ms before the first restart, twice
as long before each next one and a minute at most; from the beginning again after a run of 10 s.
"""

from __future__ import annotations

from engine.runtime.protocol import Restart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.runtime.protocol import Json

_SECOND = 10**9
FIRST_DELAY_NS = _SECOND // 10
LONGEST_DELAY_NS = 60 * _SECOND
LONG_RUN_NS = 10 * _SECOND


def applies(policy: Restart | None, *, code: int, is_stopped: bool) -> bool:
    """Whether a container that ended so shall run again; `is_stopped`: somebody ended it."""
    if policy is None:
        return False
    if policy.name == Restart.ALWAYS:
        return True
    if policy.name == Restart.UNLESS_STOPPED:
        return not is_stopped
    if policy.name != Restart.ON_FAILURE or code == 0:
        return False
    # Zero is no limit.
    return not policy.maximum_retry_count or policy.count < policy.maximum_retry_count


def next_delay_ns(before_ns: int, ran_ns: int) -> int:
    """How long to wait after a run of `ran_ns`; `before_ns` was waited before it, 0 for none."""
    if before_ns == 0 or ran_ns >= LONG_RUN_NS:
        return FIRST_DELAY_NS
    return min(2 * before_ns, LONGEST_DELAY_NS)


class Policy:
    """The policy of one container, from one start by a user to the next.

    `count` is how often it has decided for a restart.
    """

    __slots__ = ("_delay_ns", "_restart", "count", "is_given_up")

    def __init__(self, restart: Json | None) -> None:
        self.is_given_up = False
        self._delay_ns = 0
        self._restart = None if restart is None else Restart.from_json(restart)
        self.count = 0 if self._restart is None else self._restart.count

    @property
    def is_kept(self) -> bool:
        """There is a policy, or was one that has been acted upon."""
        return self._restart is not None or self.count > 0

    def change(self, restart: Json | None) -> None:
        """From the next exit on; the count goes on."""
        self._restart = None if restart is None else Restart.from_json(restart)

    def give_up(self) -> None:
        """Whatever comes, the container is not started again."""
        self.is_given_up = True

    def decide(self, *, code: int, ran_ns: int) -> int | None:
        """The ns to wait before the restart that this counts; None for no restart."""
        policy = self._restart
        if policy is None or self.is_given_up:
            return None
        self._delay_ns = next_delay_ns(self._delay_ns, ran_ns)
        policy.count = self.count
        if not applies(policy, code=code, is_stopped=False):
            return None
        self.count += 1
        return self._delay_ns
