"""The files that tell a container about names, changed by several threads at once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from engine.network import files
from engine.network.model import SandboxRequest

if TYPE_CHECKING:
    from pathlib import Path

OWN = "127.0.0.1\tlocalhost\n"


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text(OWN)
    return path


def test_changes_at_once_lose_nothing(hosts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = [f"10.0.0.{n}\tal{n} zed{n}\n" for n in range(40)]
    hosts.write_text(OWN + "".join(old))
    write = files.write

    def slow(path: str, content: str) -> None:
        time.sleep(0.001)
        write(path, content)

    monkeypatch.setattr(files, "write", slow)
    request = SandboxRequest(
        container_id="c", name="c", hostname="c", mode="bridge", hosts_path=str(hosts)
    )
    with ThreadPoolExecutor(8) as pool:
        for n in range(10):
            pool.submit(files.move_names, str(hosts), [f"al{n}"], [f"10.1.1.{n}"])
            pool.submit(files.drop_name, str(hosts), f"al{n + 10}")
            pool.submit(files.drop_own, str(hosts), [f"10.0.0.{n + 20}"])
            pool.submit(files.add_own, request, [f"10.2.2.{n}"])
    lines = hosts.read_text().splitlines(keepends=True)
    kept = [f"10.1.1.{n}\tal{n} zed{n}\n" for n in range(10)]
    assert lines[: 1 + 20] == [OWN, *kept, *old[30:]][: 1 + 20]
    assert sorted(lines[21:]) == [f"10.2.2.{n}\tc\n" for n in range(10)]


def test_what_a_container_wrote_stays_as_it_is(hosts: Path) -> None:
    own = b"10.9.9.9\tcaf\xe9\r\n10.9.9.8\tb\x0bc\n"
    hosts.write_bytes(own + b"10.0.0.1\tal\n")
    files.move_names(str(hosts), ["al"], ["10.0.0.2"])
    assert hosts.read_bytes() == own + b"10.0.0.2\tal\n"


def test_a_file_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    files.drop_name(str(path), "al")
    assert not path.exists()


def test_a_file_blown_up_by_its_container_is_left_alone(hosts: Path) -> None:
    with hosts.open("r+b") as file:
        file.truncate(1 << 40)
    files.drop_own(str(hosts), ["127.0.0.1"])
    with hosts.open("rb") as file:
        assert file.read(len(OWN)) == OWN.encode()
