"""Refusals: the status and the sentence of each, as dockerd 28.5.2 gives them.

`refusals.json` has a row a request: method, path, body, status, sentence; `{cpus}` in a sentence
stands for the CPUs of this machine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.support import host

if TYPE_CHECKING:
    from tests.support.engine import Engine

pytestmark = pytest.mark.stock
ROWS = json.loads(Path(__file__).with_name("refusals.json").read_text())


@pytest.mark.parametrize(("method", "path", "body", "status", "sentence"), ROWS)
def test_refusal(
    engine: Engine, method: str, path: str, body: str | None, status: int, sentence: str
) -> None:
    headers = {} if body is None else {"Content-Type": "application/json"}
    data = None if body is None else body.encode()
    reply = engine.call(method, quote(path, safe="/?=&:%"), data, headers=headers)
    assert reply.message == sentence.replace("{cpus}", host.online_cpus())
    # where dockerd blames itself for a mistake of the user, Wharf answers 400
    assert reply.status == status or (engine.is_wharf and (status, reply.status) == (500, 400))
