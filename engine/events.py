"""The event bus: what happened, to whom it may concern, with a replay of the recent past.

Events are kept in memory, the newest 256 (moby daemon/events keeps as many), so `since` reaches
back that far and not beyond a restart. A subscriber that falls behind by more than its queue is
ended, so that one reader that never reads costs a bounded amount of memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

KEPT = 256
QUEUE = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened.

    `type` is a noun ("container", "image", "network", "volume", "daemon"), `action` the verb as
    users know it ("start", "exec_create: ls"), `actor_id` the object's id, `time_ns` nanoseconds
    since the epoch.
    """

    type: str
    action: str
    actor_id: str
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    scope: str = "local"
    time_ns: int


class Subscription:
    """An endless iterator over events, ended by `close` or by falling too far behind."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self.is_open = True

    def offer(self, event: Event) -> None:
        if self._queue.qsize() >= QUEUE:
            self.close()
        if self.is_open:
            self._queue.put_nowait(event)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self._queue.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self._queue.get()) is not None:
            yield event


class EventBus:
    """Publishes to all current subscribers, in order; never waits for one."""

    def __init__(self) -> None:
        self._recent: deque[Event] = deque(maxlen=KEPT)
        self._subscriptions: set[Subscription] = set()

    def __len__(self) -> int:
        """How many subscribers there are."""
        return len(self._subscriptions)

    def publish(
        self, type: str, action: str, actor_id: str, attributes: Mapping[str, str] | None = None
    ) -> Event:
        event = Event(
            type=type,
            action=action,
            actor_id=actor_id,
            attributes=dict(attributes or {}),
            time_ns=time.time_ns(),
        )
        self._recent.append(event)
        for subscription in tuple(self._subscriptions):
            subscription.offer(event)
        return event

    def past(self, *, since_ns: int, until_ns: int | None = None) -> list[Event]:
        """What is still remembered of the time from `since_ns` to `until_ns`, oldest first."""
        return [
            e
            for e in self._recent
            if e.time_ns >= since_ns and (until_ns is None or e.time_ns <= until_ns)
        ]

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Everything published from now on; call `past` inside to miss nothing between."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            subscription.close()

    def close(self) -> None:
        for subscription in tuple(self._subscriptions):
            subscription.close()
