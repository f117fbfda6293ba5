"""Changes of import and commit with what dockerd 28.5.2 makes of them.

`changes.json` holds pairs: a change, and the fields of the image's Config that it set, or the
sentence that refused it. Before each stood `BASE`.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

BASE = "ENV A=val E= GLOB=a.b.tar.gz"
UNCHANGED = {
    "Cmd": None,
    "Entrypoint": None,
    "Env": ["A=val", "E=", "GLOB=a.b.tar.gz"],
    "Labels": None,
    "OnBuild": None,
    "User": "",
    "Volumes": None,
    "WorkingDir": "",
}


def recorded() -> list[tuple[str, dict[str, Any] | str]]:
    path = pathlib.Path(__file__).with_name("changes.json")
    return [(change, result) for change, result in json.loads(path.read_text("utf-8"))]
