"""A registry to ask, and a client to ask it with that knows nothing of this machine."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from engine.registry import mirror, retry
from engine.registry.client import Client
from engine.registry.transport import Transport
from tests.support.registry import Registry

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BRIEF_DELAYS_S", (0.01, 0.01, 0.01))


@pytest.fixture
def registry() -> Generator[Registry]:
    with Registry() as running:
        yield running


@asynccontextmanager
async def client(
    *, mirrors: Sequence[str] = (), insecure: Sequence[str] = (), certs_dir: str = "/nonexistent"
) -> AsyncGenerator[Client]:
    found = Client(mirror.service_config(mirrors, insecure), Transport(certs_dir=certs_dir))
    try:
        yield found
    finally:
        await found.close()
