"""Refusals: the status and the sentence of each, as dockerd 28.5.2 gives them.

`refusals.json` has a row a request: method, path, body, status, sentence; `{cpus}` in a sentence
stands for the CPUs of this machine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.support import host

if TYPE_CHECKING:
    from tests.support.engine import Engine

pytestmark = pytest.mark.stock
ROWS = json.loads(Path(__file__).with_name("refusals.json").read_text())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(map(str, row[:3])))
def test_refusal(engine: Engine, row: list[Any]) -> None:
    method, path, body, status, sentence = row
    headers = {} if body is None else {"Content-Type": "application/json"}
    data = None if body is None else body.encode()
    reply = engine.call(method, quote(path, safe="/?=&:%"), data, headers=headers)
    assert reply.message == sentence.replace("{cpus}", host.online_cpus())
    assert reply.status == status


@pytest.mark.beyond
def test_a_build_says_that_there_is_none(engine: Engine, folder: Path) -> None:
    """Also by buildx, which would otherwise go and boot a builder of its own."""
    (folder / "Dockerfile").write_text("FROM busybox\n")
    done = engine.docker("build", str(folder), check=False)
    assert done.returncode != 0
    assert b"building images is not supported by this engine yet" in done.stderr + done.stdout
    assert engine.call("GET", '/containers/json?filters={"name":["buildx"]}').json() == []
