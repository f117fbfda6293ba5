"""The shape of the tree: who imports whom, what each module needs, how the text looks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("engine", "compat")
    for path in (ROOT / package).rglob("*.py")
)

# A launcher, and so every monitor and every container's init, consists of these and no more: each
# further module is private memory a container (engine/README.md has the figures).
LIGHT = frozenset(("engine.runtime.launcher", "engine.runtime.init", "engine.runtime.protocol")) | {
    name for name in MODULES if name.startswith("engine.runtime.monitor")
}
HEAVY = frozenset(
    (
        *("asyncio", "concurrent", "dataclasses", "email", "http", "inspect", "logging"),
        *("msgspec", "multiprocessing", "pathlib", "shutil", "ssl", "subprocess", "tempfile"),
        *("threading", "typing", "urllib"),
    )
)


def tool(name: str) -> str:
    """The program of that name in the environment the tests run in."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def checked(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def imported_by(module: str, *flags: str) -> set[str]:
    """What an interpreter that does nothing but import the module has loaded."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {module}; import json; "
        "print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, *flags, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{module} alone: {done.stderr}"
    return set(json.loads(done.stdout))


def test_imports_point_downward_and_libraries_have_one_door() -> None:
    checked(tool("lint-imports"), "--no-cache")


def test_every_module_can_be_imported_first() -> None:
    """In one process, with what was loaded of ours forgotten before each."""
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    for loaded in [m for m in sys.modules if m.split('.')[0] in ('engine', 'compat')]:\n"
        "        del sys.modules[loaded]\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except Exception as exc:\n"
        "        sys.exit(f'{name} alone: {type(exc).__name__}: {exc}')\n"
    )
    names = [name for name in MODULES if name != "compat.__main__"]
    checked(sys.executable, "-c", program, *names)


@pytest.mark.parametrize("module", sorted(LIGHT & set(MODULES)))
def test_what_every_container_pays_for_is_light(module: str) -> None:
    loaded = {name.partition(".")[0] for name in imported_by(module, "-I", "-S")}
    assert not loaded & HEAVY


def test_the_command_answers_without_the_libraries() -> None:
    """`wharfd --version` and `--validate` need no server, no database and no network."""
    heavy = {"aiohttp", "asyncio", "sqlite3", "engine.engine", "compat.app"}
    assert not imported_by("compat.server") & heavy


def test_no_start_waits_for_the_library_of_all_netlink_messages() -> None:
    assert "pyroute2" not in imported_by("compat.app")


def test_the_text_is_formatted_and_clean() -> None:
    checked(tool("ruff"), "format", "--check", "--no-cache", ".")
    checked(tool("ruff"), "check", "--no-cache", ".")


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [name for name in MODULES if drawers & set(name.split("."))]


# The project's files say what is true


def test_ci_runs_the_line_of_the_readme() -> None:
    command = (ROOT / ".ci" / "run").read_text().rstrip().splitlines()[-1]
    assert command in (ROOT / "README.md").read_text()


def test_the_readme_names_files_that_exist() -> None:
    for page in ("README.md", "engine/README.md"):
        text = (ROOT / page).read_text()
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert os.path.exists((ROOT / page).parent / target), f"{page}: {target}"


def test_every_attack_that_is_told_of_has_its_tests() -> None:
    told = re.findall(r"`(test_[a-z0-9_]+_)\*`", (ROOT / "tests/ATTACKS.md").read_text())
    assert told
    written = "".join(path.read_text() for path in (ROOT / "tests/e2e").glob("test_*.py"))
    assert [start for start in told if f"def {start}" not in written] == []
