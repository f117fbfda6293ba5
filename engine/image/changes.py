"""Changes: the Dockerfile instructions that import and commit apply to a config. Pure.

Eleven instructions, in the grammar of a Dockerfile: lines continued with a backslash, comments,
JSON or shell form, quotes, and variables out of ENV. The sentences are dockerd's.
"""

from __future__ import annotations

import json
import posixpath
import re
from typing import TYPE_CHECKING, cast

import msgspec

from engine import timestamp
from engine.errors import InvalidParameter
from engine.oci.image import Config, Healthcheck

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SHELL = ("/bin/sh", "-c")
_NOT_AS_TRIGGER = frozenset({"ONBUILD", "MAINTAINER", "FROM"})
_EMPTY: dict[str, object] = {}


class InvalidChange(InvalidParameter):
    """A change that is no instruction, or not one that can be applied."""


def apply(config: Config, changes: Sequence[str]) -> Config:
    """The config with the instructions applied in order. Raises InvalidChange."""
    if not changes:
        return config
    lines = _logical_lines("\n".join(changes))
    if not lines:
        raise InvalidChange("file with no instructions")
    parsed = [_split(line) for line in lines]
    for word, _ in parsed:
        if word.upper() not in _INSTRUCTIONS:
            raise InvalidChange(f"{word.upper()} is not a valid change command")
    has_cmd = False
    for word, rest in parsed:
        instruction = word.upper()
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
        if line.endswith("\\"):
            current += line[:-1]
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


def _json_form(rest: str) -> tuple[str, ...] | None:
    """The strings of a JSON array, None if it is none: then it is the shell's."""
    if not rest.startswith("["):
        return None
    try:
        value = json.loads(rest)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, list):
        return None
    found = cast("list[object]", value)
    texts = tuple(v for v in found if isinstance(v, str))
    return texts if len(texts) == len(found) else None


# Words and variables

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BRACED = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([-+?])((?:[^}\\]|\\.)*))?\}")


class _Words:
    """The shell's words with quotes taken off and variables put in (moby's shell lexer)."""

    def __init__(self, env: Sequence[str] | None) -> None:
        pairs = (entry.partition("=") for entry in env or ())
        self._env = {name: value for name, _, value in pairs}

    def expand(self, text: str) -> str:
        """One word out of the whole text."""
        out: list[str] = []
        at = 0
        quote = ""
        while at < len(text):
            char = text[at]
            if char == "\\" and quote != "'":
                if at + 1 < len(text):
                    following = text[at + 1]
                    keeps = quote == '"' and following not in '"$\\'
                    out.append(f"\\{following}" if keeps else following)
                at += 2
            elif char in "'\"" and (not quote or quote == char):
                quote = "" if quote else char
                at += 1
            elif char == "$" and quote != "'":
                value, at = self._variable(text, at + 1)
                out.append(value)
            else:
                out.append(char)
                at += 1
        if quote:
            raise InvalidChange(
                "unexpected end of statement while looking for matching "
                + ("single-quote" if quote == "'" else "double-quote")
            )
        return "".join(out)

    def _variable(self, text: str, at: int) -> tuple[str, int]:
        if match := _BRACED.match(text, at):
            name, how, word = match[1], match[2], match[3] or ""
            value = self._env.get(name, "")
            match how:
                case "-":
                    value = value or self.expand(word)
                case "+":
                    value = self.expand(word) if value else ""
                case "?" if not value:
                    message = self.expand(word) or "is not allowed to be empty"
                    raise InvalidChange(f"{name}: {message}")
                case _:
                    pass
            return value, match.end()
        if match := _NAME.match(text, at):
            return self._env.get(match[0], ""), match.end()
        if text[at : at + 1] == "{":
            raise InvalidChange("syntax error: missing '}'")
        return "$", at


def _raw_words(rest: str) -> list[str]:
    """Split at blanks that are outside quotes; quotes and backslashes stay."""
    words: list[str] = []
    current = ""
    quote = ""
    at = 0
    while at < len(rest):
        char = rest[at]
        if char == "\\" and at + 1 < len(rest) and quote != "'":
            current += rest[at : at + 2]
            at += 2
            continue
        if char in "'\"" and (not quote or quote == char):
            quote = "" if quote else char
        if char.isspace() and not quote:
            if current:
                words.append(current)
            current = ""
        else:
            current += char
        at += 1
    return [*words, current] if current else words


def _pairs(word: str, rest: str, words: _Words) -> list[tuple[str, str]]:
    """`a=b c="d e"`, or the old `name the value`."""
    raw = _raw_words(rest)
    if not raw:
        raise InvalidChange(f"{word} requires at least one argument")
    if "=" not in raw[0]:
        name, _, value = rest.partition(" ")
        if not value.strip():
            raise InvalidChange(f"{word} must have two arguments")
        return [(words.expand(name), words.expand(value.strip()))]
    pairs: list[tuple[str, str]] = []
    for each in raw:
        if "=" not in each:
            raise InvalidChange(
                f'Syntax error - can\'t find = in "{each}". Must be of the form: name=value'
            )
        name, _, value = each.partition("=")
        name = words.expand(name)
        if not name:
            raise InvalidChange(f"{word} names can not be blank")
        pairs.append((name, words.expand(value)))
    return pairs


# Instructions


def _replace(config: Config, **fields: object) -> Config:
    return msgspec.structs.replace(config, **fields)


def _command(config: Config, rest: str) -> tuple[str, ...]:
    listed = _json_form(rest)
    return listed if listed is not None else (*(config.shell or _SHELL), *((rest,) if rest else ()))


def _cmd(config: Config, rest: str) -> Config:
    return _replace(config, cmd=_command(config, rest))


def _entrypoint(config: Config, rest: str) -> Config:
    listed = _json_form(rest)
    if listed == ():
        return _replace(config, entrypoint=None)
    return _replace(config, entrypoint=_command(config, rest))


def _env(config: Config, rest: str) -> Config:
    env = list(config.env or ())
    for name, value in _pairs("ENV", rest, _Words(config.env)):
        entry = f"{name}={value}"
        for place, existing in enumerate(env):
            if existing.partition("=")[0] == name:
                env[place] = entry
                break
        else:
            env.append(entry)
    return _replace(config, env=tuple(env))


def _expose(config: Config, rest: str) -> Config:
    words = _Words(config.env)
    specs = [words.expand(word) for word in _raw_words(rest)]
    if not specs:
        raise InvalidChange("EXPOSE requires at least one argument")
    ports = dict(config.exposed_ports or {})
    for spec in specs:
        ports.update((port, _EMPTY) for port in _ports(spec))
    return _replace(config, exposed_ports=ports)


def _ports(spec: str) -> list[str]:
    """`80`, `80/udp`, `80-82`, and what of a publication stands behind the last colon."""
    numbers, slash, protocol = spec.rpartition(":")[2].partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if not numbers:
        raise InvalidChange(f"no port specified: {spec}<empty>")
    if protocol not in ("tcp", "udp", "sctp"):
        raise InvalidChange(f"invalid proto: {protocol}")
    first, dash, last = numbers.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise InvalidChange(f"Invalid containerPort: {numbers}")
    low, high = int(first), int(last) if dash else int(first)
    if high < low or high > 65535:
        raise InvalidChange(f"Invalid containerPort: {numbers}")
    return [f"{port}/{protocol}" for port in range(low, high + 1)]


def _label(config: Config, rest: str) -> Config:
    pairs = _pairs("LABEL", rest, _Words(config.env))
    return _replace(config, labels={**(config.labels or {}), **dict(pairs)})


def _one(word: str, config: Config, rest: str) -> str:
    if not rest:
        raise InvalidChange(f"{word} requires exactly one argument")
    return _Words(config.env).expand(rest)


def _user(config: Config, rest: str) -> Config:
    return _replace(config, user=_one("USER", config, rest))


def _workdir(config: Config, rest: str) -> Config:
    path = _one("WORKDIR", config, rest)
    joined = posixpath.join("/", config.working_dir, path)
    return _replace(config, working_dir=posixpath.normpath(joined).replace("//", "/"))


def _stop_signal(config: Config, rest: str) -> Config:
    signal = _one("STOPSIGNAL", config, rest)
    if not _is_signal(signal):
        raise InvalidChange(f"invalid signal: {signal}")
    return _replace(config, stop_signal=signal)


_SIGNALS = frozenset(
    """
    ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT
    STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ
    """.split()  # noqa: SIM905
)
_REALTIME = re.compile(r"RTMIN(\+([1-9]|1[0-5]))?|RTMAX(-([1-9]|1[0-4]))?")


def _is_signal(text: str) -> bool:
    if text.isdecimal():
        return 1 <= int(text) <= 64
    name = text.upper().removeprefix("SIG")
    return name in _SIGNALS or _REALTIME.fullmatch(name) is not None


def _volume(config: Config, rest: str) -> Config:
    words = _Words(config.env)
    listed = _json_form(rest)
    paths = listed if listed is not None else tuple(_raw_words(rest))
    if not paths:
        raise InvalidChange("VOLUME requires at least one argument")
    volumes = dict(config.volumes or {})
    for path in paths:
        expanded = words.expand(path)
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
    return _replace(config, on_build=(*(config.on_build or ()), rest))


_OPTIONS = {
    "interval": "interval",
    "timeout": "timeout",
    "start-period": "start_period",
    "start-interval": "start_interval",
}
_LEAST_NS = 1_000_000


def _healthcheck(config: Config, rest: str) -> Config:
    if not rest:
        raise InvalidChange("HEALTHCHECK requires at least one argument")
    fields: dict[str, object] = {}
    while rest.startswith("--"):
        option, _, rest = rest.partition(" ")
        rest = rest.lstrip()
        name, _, value = option[2:].partition("=")
        fields.update(_health_option(name, value))
    kind, rest = _split(rest) if rest else ("", "")
    match kind.upper():
        case "NONE":
            if rest:
                raise InvalidChange("HEALTHCHECK NONE takes no arguments")
            return _replace(config, healthcheck=Healthcheck(test=("NONE",)))
        case "CMD":
            if not rest:
                raise InvalidChange("Missing command after HEALTHCHECK CMD")
            listed = _json_form(rest)
            test = ("CMD", *listed) if listed is not None else ("CMD-SHELL", rest)
            check = msgspec.convert({}, Healthcheck)
            return _replace(config, healthcheck=msgspec.structs.replace(check, test=test, **fields))
        case _:
            raise InvalidChange(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')


def _health_option(name: str, value: str) -> dict[str, object]:
    if name == "retries":
        if not value.lstrip("-").isdecimal():
            raise InvalidChange(f'strconv.ParseInt: parsing "{value}": invalid syntax')
        if int(value) < 0:
            raise InvalidChange(f"--retries cannot be negative ({value})")
        return {"retries": int(value)}
    if name not in _OPTIONS:
        raise InvalidChange(f"unknown flag: {name}")
    try:
        duration = timestamp.parse_duration_ns(value)
    except ValueError:
        raise InvalidChange(f'time: invalid duration "{value}"') from None
    if duration < 0:
        raise InvalidChange(f'Interval "{name}" cannot be negative')
    if 0 < duration < _LEAST_NS:
        raise InvalidChange(f'Interval "{name}" cannot be less than 1ms')
    return {_OPTIONS[name]: duration}


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
