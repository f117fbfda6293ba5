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
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()

    def holds(self, name: str) -> bool:
        with self._lock:
            return name in self._held

    def unless_held(self, name: str, act: Callable[[], None]) -> None:
        """Call `act` unless somebody holds it; nobody begins to meanwhile."""
        with self._lock:
            if name not in self._held:
                act()

    def names(self) -> set[str]:
        """All that is held."""
        with self._lock:
            return set(self._held)

    def take(self, name: str) -> None:
        with self._lock:
            self._held[name] += 1

    def give_back(self, names: Collection[str]) -> None:
        with self._lock:
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
