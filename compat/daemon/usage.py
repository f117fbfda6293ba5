"""The text of `wharfd --help`."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from compat.daemon.options import by_flag

if TYPE_CHECKING:
    from compat.daemon.options import Option

_HEAD = """Usage:  wharfd [OPTIONS]

A drop-in Docker engine: the Docker Engine API over containers of its own.

Options:
"""


def usage(width: int) -> str:
    """All options, sorted by name, in lines of at most `width` characters."""
    shown = sorted((o for o in by_flag().values() if not o.hidden), key=lambda o: o.flag)
    left = {option.flag: _left(option) for option in shown}
    indent = max(map(len, left.values())) + 3
    lines = (_lines(left[o.flag], _right(o), indent, width) for o in shown)
    return _HEAD + "\n".join(lines) + "\n"


def _left(option: Option) -> str:
    short = f"-{option.short}, " if option.short else "    "
    return f"  {short}--{option.flag} {option.kind.name}".rstrip()


def _right(option: Option) -> str:
    default = f" (default {option.shown})" if option.shown else ""
    effect = "; refused here" if option.refused else ""
    if option.no_effect and not option.refused:
        effect = "; has no effect here"
    return option.help + effect + default


def _lines(left: str, right: str, indent: int, width: int) -> str:
    wrapped = textwrap.wrap(right, max(width - indent, 24))
    return "\n".join(
        (left if number == 0 else "").ljust(indent) + part for number, part in enumerate(wrapped)
    )
