"""compat/FIELDS.md says what becomes of each field of a create request, and says so truly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from msgspec import inspect

import compat
from compat import versions
from compat.translate import requests
from compat.wire import containers as wire
from engine.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(compat.__file__).with_name("FIELDS.md")
WORDS = {"honoured", "kept", "warned", "refused", "ignored"}
PARTS = {"host_config", "networking_config"}  # with tables of their own
ROW = re.compile(r"^\| (\w+) \| (\w+) \|.*\|$", re.MULTILINE)


def tables() -> dict[str, dict[str, str]]:
    """Struct → field → word."""
    _, *sections = re.split(r"^## (\w+)$", PAGE.read_text(), flags=re.MULTILINE)
    texts = zip(sections[::2], sections[1::2], strict=True)
    return {name: dict(ROW.findall(text)) for name, text in texts}


def structs(cls: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    """All shapes that a body of this one may hold, itself first."""
    pending, seen = [cls], set[type[msgspec.Struct]]()
    while pending:
        current = pending.pop()
        if current in seen or not msgspec.structs.fields(current):
            continue
        seen.add(current)
        yield current
        info = cast("inspect.StructType", inspect.type_info(current))
        for field in info.fields:
            pending += held(field.type)


def held(kind: Any) -> list[type[msgspec.Struct]]:
    if isinstance(kind, inspect.StructType):
        return [kind.cls]
    parts = [getattr(kind, name, ()) for name in ("types", "item_types")]
    parts += [
        [part]
        for name in ("type", "item_type", "value_type")
        if (part := getattr(kind, name, None))
    ]
    return [cls for group in parts for part in group for cls in held(part)]


def name_of(cls: type[msgspec.Struct]) -> str:
    return "Config" if cls is wire.ContainerCreateRequest else cls.__name__


STRUCTS = list(structs(wire.ContainerCreateRequest))


def test_there_is_a_table_for_each_struct_and_no_other() -> None:
    assert set(tables()) == {name_of(cls) for cls in STRUCTS}


@pytest.mark.parametrize("cls", STRUCTS, ids=name_of)
def test_a_table_has_the_fields_of_its_struct(cls: type[msgspec.Struct]) -> None:
    table = tables()[name_of(cls)]
    fields = [f.encode_name for f in msgspec.structs.fields(cls) if f.name not in PARTS]
    assert list(table) == fields
    assert set(table.values()) <= WORDS


# Whether a field means anything is seen from what the translation makes of a body with it.

BASE = {"image": "busybox", "cmd": ("true",)}


def sample(kind: Any) -> Any:
    """A value that is not what a field has without one."""
    match kind:
        case inspect.UnionType():
            return next(
                value
                for part in kind.types
                if not isinstance(part, inspect.NoneType)
                and (value := sample(part)) is not msgspec.UNSET
            )
        case inspect.Metadata():
            return sample(kind.type)
        case inspect.BoolType():
            return True
        case inspect.IntType():
            return 7
        case inspect.StrType():
            return "host"
        case inspect.DictType():
            return {sample(kind.key_type): sample(kind.value_type)}
        case inspect.VarTupleType():
            return (sample(kind.item_type),)
        case inspect.TupleType():
            return tuple(sample(part) for part in kind.item_types)
        case inspect.StructType():
            return filled(kind.cls) if kind.fields else kind.cls()
        case _:
            return msgspec.UNSET


def filled(cls: type[msgspec.Struct], *names: str) -> Any:
    """One with all its fields set, or those."""
    info = cast("inspect.StructType", inspect.type_info(cls))
    chosen = [field for field in info.fields if not names or field.name in names]
    return cls(**{field.name: sample(field.type) for field in chosen})


def translated(**fields: Any) -> object:
    body = wire.ContainerCreateRequest(**{**BASE, **fields})
    try:
        return requests.create(body, name="", platform="", version=versions.NEWEST)
    except InvalidParameter as exc:
        return str(exc)


def bodies(cls: type[msgspec.Struct], field: str) -> dict[str, Any]:
    """What to send so that the one field is set."""
    if cls is wire.HostConfig:
        return {"host_config": filled(cls, field)}
    if cls is wire.EndpointSettings:
        sent = {"net": filled(cls, field)}
        return {"networking_config": wire.NetworkingConfig(endpoints_config=sent)}
    made = filled(wire.ContainerCreateRequest, field)
    return {field: getattr(made, field)}


def without(cls: type[msgspec.Struct]) -> dict[str, Any]:
    if cls is wire.EndpointSettings:
        sent = {"net": wire.EndpointSettings()}
        return {"networking_config": wire.NetworkingConfig(endpoints_config=sent)}
    return {}


@pytest.mark.parametrize(
    ("cls", "field"),
    [
        pytest.param(cls, field, id=f"{name_of(cls)}.{field.encode_name}")
        for cls in (wire.ContainerCreateRequest, wire.HostConfig, wire.EndpointSettings)
        for field in msgspec.structs.fields(cls)
        if field.name not in PARTS
    ],
)
def test_only_what_is_called_ignored_is_forgotten(
    cls: type[msgspec.Struct], field: msgspec.structs.FieldInfo
) -> None:
    word = tables()[name_of(cls)][field.encode_name]
    is_forgotten = translated(**bodies(cls, field.name)) == translated(**without(cls))
    assert is_forgotten == (word == "ignored")
