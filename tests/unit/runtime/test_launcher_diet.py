"""What every monitor carries: the launcher's imports, and that it needs no third party."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import engine

HEAVY = {
    "aiohttp",
    "asyncio",
    "dataclasses",
    "inspect",
    "logging",
    "msgspec",
    "pathlib",
    "shutil",
    "subprocess",
    "tempfile",
    "threading",
    "typing",
    "uvloop",
}


def test_the_launcher_imports_only_the_light_half() -> None:
    tree = pathlib.Path(engine.__file__).parents[1]
    program = (
        f"import sys, json; sys.path.append({str(tree)!r})\n"
        "from engine.runtime import launcher\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "utf8", "-c", program],
        check=True,
        capture_output=True,
    )
    modules = set(json.loads(done.stdout))
    assert modules & HEAVY == set()
    assert len(modules) < 134
