"""The API's document, and the documents of older versions that follow from its marks."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

PATH = Path(__file__).parents[2] / "api-spec" / "engine.yaml"
NEWEST = "1.51"


@cache
def document() -> dict[str, Any]:
    return yaml.load(PATH.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = document()["components"]["schemas"][name]
    return found


def properties(described: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The fields of an object, those of its parts included."""
    if "$ref" in described:
        return properties(schema(described["$ref"].rpartition("/")[2]))
    fields: dict[str, dict[str, Any]] = dict(described.get("properties", {}))
    for part in described.get("allOf", ()):
        fields |= properties(part)
    return fields


def minor(version: str) -> int:
    return int(version.partition(".")[2])


def is_in(marked: dict[str, Any], version: str) -> bool:
    since, until = marked.get("x-since", "1.0"), marked.get("x-until", "1.999")
    return minor(since) <= minor(version) < minor(until)


def derive(version: str, node: Any = None) -> Any:
    """The document of an older version: what came later is gone, and the marks with it."""
    node = document() if node is None else node
    if isinstance(node, dict):
        return {
            key: derive(version, value)
            for key, value in node.items()
            if key not in {"x-since", "x-until"}
            and not (isinstance(value, dict) and not is_in(value, version))
        }
    if isinstance(node, list):
        return [
            derive(version, item)
            for item in node
            if not isinstance(item, dict) or is_in(item, version)
        ]
    return node
