"""What must not be swept although no row names it yet: layers and blobs that work in hand needs."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import TracebackType


class Leases:
    """Counts who needs a layer or a blob that no row names yet."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: Counter[str] = Counter()
        self._going: set[str] = set()

    def holds(self, name: str) -> bool:
        with self._changed:
            return name in self._held

    def unless_held(self, name: str, act: Callable[[], None]) -> None:
        """Call `act`, which may take long, unless somebody holds it; nobody begins to then."""
        with self._changed:
            if name in self._held or name in self._going:
                return
            self._going.add(name)
        try:
            act()
        finally:
            with self._changed:
                self._going.discard(name)
                self._changed.notify_all()

    def names(self) -> set[str]:
        """All that is held."""
        with self._changed:
            return set(self._held)

    def take(self, name: str) -> None:
        """Waits for one that is being let go of: in a thread."""
        with self._changed:
            while name in self._going:
                self._changed.wait()
            self._held[name] += 1

    def give_back(self, names: Collection[str]) -> None:
        with self._changed:
            self._held -= Counter(names)


class Lease:
    """Keeps layers and blobs from being swept until closed; use it as a context manager."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._names: list[str] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def add(self, name: str) -> None:
        """Hold a chain id or a digest."""
        with self._lock:
            if self._is_closed:
                raise ValueError("lease is closed")
            self._leases.take(name)
            self._names.append(name)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            names, self._names = self._names, []
        self._leases.give_back(names)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
