"""Changes: the Dockerfile instructions that import and commit apply to a config. Pure.

Eleven instructions, in the grammar of a Dockerfile: lines continued with a backslash, comments,
JSON or shell form, quotes, and variables out of ENV. The sentences are dockerd's.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

import msgspec

from engine import signals, timestamp
from engine.dockerfile import arguments, ports, words
from engine.errors import InvalidParameter
from engine.oci.image import Config, Healthcheck

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SHELL = ("/bin/sh", "-c")
_NOT_AS_TRIGGER = frozenset({"ONBUILD", "MAINTAINER", "FROM"})
_TAKE_JSON = frozenset({"ADD", "CMD", "COPY", "ENTRYPOINT", "RUN", "SHELL", "VOLUME"})
# A backslash that is not one of two.
_CONTINUED = re.compile(r"(?<!\\)\\$")
_NUMBER = re.compile(r"[-+]?[0-9]+")
_LARGEST_RETRIES = 2**31 - 1
_EMPTY: dict[str, object] = {}


class InvalidChange(InvalidParameter):
    """A change that is no instruction, or not one that can be applied."""


def apply(config: Config, changes: Sequence[str]) -> Config:
    """The config with the instructions applied in order. Raises InvalidChange."""
    if not changes:
        return config
    lines = _logical_lines("\n".join(changes).removeprefix("\ufeff"))
    if not lines:
        raise InvalidChange("file with no instructions")
    parsed = [_split(line) for line in lines]
    for word, _ in parsed:
        if word.upper() not in _INSTRUCTIONS:
            raise InvalidChange(f"{word} is not a valid change command")
    has_cmd = False
    for word, rest in parsed:
        instruction = word.upper()
        if instruction not in _FLAGS_ITS_OWN:
            _, rest = arguments.flags(rest)
        config = _INSTRUCTIONS[instruction](config, rest)
        has_cmd = has_cmd or instruction == "CMD"
        if instruction == "ENTRYPOINT" and not has_cmd:
            config = _replace(config, cmd=None)  # it was written for another entrypoint
    return config


def _logical_lines(text: str) -> list[str]:
    """Lines with their continuations joined; comments and empty lines left out."""
    lines: list[str] = []
    current = ""
    for raw in text.split("\n"):
        line = raw.strip() if not current else raw.rstrip()
        if line.lstrip().startswith("#") or not line.strip():
            continue
        if continued := _CONTINUED.search(line):
            current += line[: continued.start()]
            continue
        lines.append(current + line)
        current = ""
    return [*lines, current] if current.strip() else lines


def _split(line: str) -> tuple[str, str]:
    word, _, rest = line.strip().partition(" ")
    if "\t" in word:
        word, _, more = word.partition("\t")
        rest = f"{more} {rest}"
    return word, rest.strip()


# Instructions


def _replace(config: Config, **fields: object) -> Config:
    return msgspec.structs.replace(config, **fields)


def _variables(config: Config) -> dict[str, str]:
    pairs = (entry.partition("=") for entry in config.env or ())
    return {name: value for name, _, value in pairs}


def _command(config: Config, rest: str) -> tuple[str, ...]:
    listed = arguments.json_array(rest)
    return listed if listed is not None else (*(config.shell or _SHELL), *((rest,) if rest else ()))


def _cmd(config: Config, rest: str) -> Config:
    return _replace(config, cmd=_command(config, rest))


def _entrypoint(config: Config, rest: str) -> Config:
    if not rest or arguments.json_array(rest) == ():
        return _replace(config, entrypoint=None)
    return _replace(config, entrypoint=_command(config, rest))


def _env(config: Config, rest: str) -> Config:
    env = list(config.env or ())
    for name, value in arguments.pairs("ENV", rest, _variables(config)):
        entry = f"{name}={value}"
        for place, existing in enumerate(env):
            if existing.partition("=")[0] == name:
                env[place] = entry
                break
        else:
            env.append(entry)
    return _replace(config, env=tuple(env))


def _expose(config: Config, rest: str) -> Config:
    if not rest:
        raise InvalidChange("EXPOSE requires at least one argument")
    exposed = dict(config.exposed_ports or {})
    for word in rest.split():
        for spec in words.split(word, _variables(config)):
            exposed.update((port, _EMPTY) for port in ports.parse(spec))
    return _replace(config, exposed_ports=exposed)


def _label(config: Config, rest: str) -> Config:
    pairs = arguments.pairs("LABEL", rest, _variables(config))
    return _replace(config, labels={**(config.labels or {}), **dict(pairs)})


def _one(word: str, config: Config, rest: str) -> str:
    if not rest:
        raise InvalidChange(f"{word} requires exactly one argument")
    return words.expand(rest, _variables(config))


def _user(config: Config, rest: str) -> Config:
    return _replace(config, user=_one("USER", config, rest))


def _workdir(config: Config, rest: str) -> Config:
    path = _one("WORKDIR", config, rest)
    if not path:
        raise InvalidChange("cannot normalize nothing")
    joined = posixpath.join("/", config.working_dir, path)
    return _replace(config, working_dir=posixpath.normpath(joined).replace("//", "/"))


def _stop_signal(config: Config, rest: str) -> Config:
    signal = _one("STOPSIGNAL", config, arguments.without_flags(rest))
    signals.check_stop_signal(signal)
    return _replace(config, stop_signal=signal)


def _volume(config: Config, rest: str) -> Config:
    listed = arguments.json_array(rest)
    paths = listed if listed is not None else tuple(rest.split())
    if not paths:
        raise InvalidChange("VOLUME requires at least one argument")
    volumes = dict(config.volumes or {})
    for path in paths:
        expanded = words.expand(path, _variables(config))
        if not expanded:
            raise InvalidChange("VOLUME specified can not be an empty string")
        volumes[expanded] = _EMPTY
    return _replace(config, volumes=volumes)


def _on_build(config: Config, rest: str) -> Config:
    if not rest:
        raise InvalidChange("ONBUILD requires at least one argument")
    word = rest.split(None, 1)[0].upper()
    if word == "ONBUILD":
        raise InvalidChange("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if word in _NOT_AS_TRIGGER:
        raise InvalidChange(f"{word} isn't allowed as an ONBUILD trigger")
    behind = _split(rest)[1]
    if word in _TAKE_JSON:
        arguments.json_array(behind)
    if word in ("ENV", "LABEL") and behind:
        arguments.check_pairs(word, behind)
    return _replace(config, on_build=(*(config.on_build or ()), rest))


_DURATIONS = {
    "interval": "interval",
    "timeout": "timeout",
    "start-period": "start_period",
    "start-interval": "start_interval",
}
_FLAGS_ITS_OWN = frozenset({"HEALTHCHECK", "STOPSIGNAL"})
_LEAST_NS = 1_000_000


def _healthcheck(config: Config, rest: str) -> Config:
    given, rest = arguments.flags(rest, (*_DURATIONS, "retries"))
    if not rest:
        raise InvalidChange("HEALTHCHECK requires at least one argument")
    kind, rest = _split(rest)
    match kind.upper():
        case "NONE":
            if rest:
                raise InvalidChange("HEALTHCHECK NONE takes no arguments")
            return _replace(config, healthcheck=Healthcheck(test=("NONE",)))
        case "CMD":
            if not rest:
                raise InvalidChange("Missing command after HEALTHCHECK CMD")
            listed = arguments.json_array(rest)
            if listed == ():
                raise InvalidChange("Missing command after HEALTHCHECK CMD")
            test = ("CMD", *listed) if listed is not None else ("CMD-SHELL", rest)
            durations = _durations(given)
            retries = _retries(given.get("retries") or "0")
            check = Healthcheck(test=test, retries=retries, **durations)
            return _replace(config, healthcheck=check)
        case _:
            raise InvalidChange(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')


def _durations(given: Mapping[str, str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for option, field in _DURATIONS.items():
        try:
            duration = timestamp.parse_duration_ns(given.get(option) or "0")
        except ValueError as exc:
            raise InvalidChange(str(exc)) from None
        if duration and duration < _LEAST_NS:
            raise InvalidChange(f'Interval "{option}" cannot be less than 1ms')
        found[field] = duration
    return found


def _retries(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise InvalidChange(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    number = int(text) if len(text) <= len("-2147483648") else _LARGEST_RETRIES + 1
    if number > _LARGEST_RETRIES:
        raise InvalidChange(f'strconv.ParseInt: parsing "{text}": value out of range')
    if number < 0:
        raise InvalidChange(f"--retries cannot be negative ({number})")
    return number


_INSTRUCTIONS: dict[str, Callable[[Config, str], Config]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _on_build,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
