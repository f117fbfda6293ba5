r"""The shell's words, as a Dockerfile has them: quotes taken off and variables put in.

    "a b"  'a $b'  a\ b        quotes; in single ones nothing has a meaning
    $name ${name}              "" where nobody gave it a value
    ${name:-word} ${name-word} the word for a value that is empty or not given; just not given
    ${name:+word} ${name+word} the word if there is a value
    ${name:?word} ${name?word} the word is what is wrong without one
    ${name#pattern} ## % %%    the value without its shortest or longest beginning, or end
    ${name/pattern/word} //    with the first, or each, match replaced

(BuildKit frontend/dockerfile/shell; docs.docker.com/reference/dockerfile §Environment replacement.)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_NAME = re.compile(r"[^\W\d]\w*|\d+|[@*#?$!0-]")
LARGEST = 1 << 20
"""Characters of what comes out."""

LONGEST_PATTERN = 1024
"""Characters; each may be held against each of a value."""

_ESCAPED = "*?\\}/"
_BLANKS = " \t\r\n\v\f"
_NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"


class InvalidWord(InvalidParameter):
    """`text` cannot be read, or a variable in it may not be missing."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f'failed to process "{quoted(text)}": {reason}')


def quoted(text: str) -> str:
    """Without the quotes around it, as Go's %q."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t").replace("\n", "\\n")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """One word out of the whole text. Raises InvalidWord."""
    return "".join(_Scan(text, variables).all())


def split(text: str, variables: Mapping[str, str]) -> list[str]:
    """The words of the text, also those that come of a variable; empty ones are none.

    Raises InvalidWord.
    """
    words: list[str] = []
    word = ""
    for piece in _Scan(text, variables).all():
        if isinstance(piece, _Quoted):
            word += piece
            continue
        for char in piece:
            if char not in _BLANKS:
                word += char
            elif word:
                words.append(word)
                word = ""
    return [*words, word] if word else words


class _Quoted(str):
    """Text whose blanks do not end a word."""

    __slots__ = ()


class _Scan:
    """One reading of one text."""

    def __init__(self, text: str, variables: Mapping[str, str]) -> None:
        self._text = text
        self._variables = variables
        self._at = 0

    def all(self) -> list[str]:
        pieces = self._until("")
        self._check(pieces)
        return pieces

    def _joined(self, pieces: Collection[str]) -> str:
        self._check(pieces)
        return "".join(pieces)

    def _check(self, pieces: Collection[str]) -> None:
        """Before they are joined: a few lines may double a variable many times."""
        if sum(map(len, pieces)) > LARGEST:
            raise self._fail(f"longer than {LARGEST} characters")

    def _fail(self, reason: str) -> InvalidWord:
        return InvalidWord(self._text, reason)

    def _peek(self) -> str:
        """The next character, "" at the end."""
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._peek()
        self._at += len(char)
        return char

    def _until(self, end: str, *, keeps_escapes: bool = False) -> list[str]:
        """The pieces up to a character that is taken along, "" for the end of the text.

        With `keeps_escapes` a backslash stays, for whoever reads the text as a pattern.
        """
        pieces: list[str] = []
        while char := self._next():
            if char == end:
                return pieces
            match char:
                case "'":
                    pieces.append(self._single())
                case '"':
                    pieces.append(self._double())
                case "$":
                    pieces.append(self._variable())
                case "\\":
                    following = self._next()
                    pieces.append(char + following if keeps_escapes else _Quoted(following))
                case _:
                    pieces.append(char)
        if end:
            raise self._fail(f"syntax error: missing '{end}'{' in ${}' if end == '/' else ''}")
        return pieces

    def _single(self) -> _Quoted:
        begin = self._at
        end = self._text.find("'", begin)
        if end < 0:
            raise self._fail(_no_end("single-quote"))
        self._at = end + 1
        return _Quoted(self._text[begin:end])

    def _double(self) -> _Quoted:
        pieces: list[str] = []
        while char := self._next():
            match char:
                case '"':
                    return _Quoted(self._joined(pieces))
                case "$":
                    pieces.append(self._variable())
                case "\\" if not self._peek():
                    pass
                case "\\" if self._peek() in '"$\\':
                    pieces.append(self._next())
                case _:
                    pieces.append(char)
        raise self._fail(_no_end("double-quote"))

    # Variables

    def _variable(self) -> str:
        if self._peek() == "{":
            self._at += 1
            return self._braced()
        name = self._name()
        return self._variables.get(name, "") if name else "$"

    def _name(self) -> str:
        found = _NAME.match(self._text, self._at)
        if found is None:
            return ""
        self._at = found.end()
        return found[0]

    def _braced(self) -> str:
        match self._peek():
            case "":
                raise self._fail("syntax error: missing '}'")
            case "{" | "}" | ":":
                raise self._fail("syntax error: bad substitution")
            case _:
                pass
        name = self._name()
        modifier = self._next()
        if modifier == "}":
            return self._variables.get(name, "")
        if modifier == ":":
            if not self._peek():
                raise self._fail("syntax error: missing '}'")
            modifier += self._next()
        match modifier:
            case "-" | ":-" | "+" | ":+" | "?" | ":?":
                return self._choice(name, modifier)
            case "#" | "%":
                return self._trimmed(name, modifier)
            case "/":
                return self._replaced(name)
            case _:
                shown = modifier or _NO_CHARACTER
                raise self._fail(f"unsupported modifier ({shown}) in substitution")

    def _choice(self, name: str, modifier: str) -> str:
        word = self._joined(self._until("}"))
        value = self._variables.get(name)
        is_there = bool(value) if modifier[0] == ":" else value is not None
        match modifier[-1]:
            case "-":
                return value or "" if is_there else word
            case "+":
                return word if is_there else ""
            case _ if is_there:
                return value or ""
            case _:
                kind = "unset" if value is None else "empty"
                raise self._fail(f"{name}: {word or f'is not allowed to be {kind}'}")

    def _trimmed(self, name: str, side: str) -> str:
        is_longest = self._peek() == side
        self._at += is_longest
        pattern = self._pattern("}")
        value = self._variables.get(name, "")
        if side == "#":
            found = _regex(pattern, is_longest=is_longest).match(value)
            return value[found.end() :] if found else value
        # From its end on: what is at the end of a text begins the reversed one.
        found = _regex(pattern[::-1], is_longest=is_longest).match(value[::-1])
        return value[: len(value) - found.end()] if found else value

    def _replaced(self, name: str) -> str:
        is_each = self._peek() == "/"
        self._at += is_each
        runs = [re.compile(run, re.DOTALL) for run in _runs(self._pattern("/"))]
        word = self._raw("}")
        value = self._variables.get(name, "")
        if len(runs) == 1 and not runs[0].pattern:
            # Before, between and behind all characters; or before them.
            return self._joined(
                [word, *(f"{c}{word}" for c in value)] if is_each else [word, value]
            )
        if not value:
            return "" if any(run.pattern for run in runs) else word
        pieces: list[str] = []
        begin = 0
        while found := _search(runs, value, begin):
            pieces += (value[begin : found[0]], word)
            begin = found[1]
            if not is_each:
                break
        return self._joined((*pieces, value[begin:]))

    def _pattern(self, end: str) -> list[str]:
        """The parts of a pattern: `*`, `?`, and characters, of which an escaped one has two."""
        text = self._raw(end)
        parts = [found[0] for found in re.finditer(r"\\.|.", text, re.DOTALL)]
        if len(parts) > LONGEST_PATTERN:
            raise self._fail(f"pattern is longer than {LONGEST_PATTERN} characters")
        for part in parts:
            if len(part) > 1 and part[1] not in _ESCAPED:
                raise self._fail(
                    f"invalid pattern ({text}) in substitution: invalid escape '{part}'"
                )
        return parts

    def _raw(self, end: str) -> str:
        """Text in which a backslash keeps its meaning; a variable may stand in it."""
        return self._joined(self._until(end, keeps_escapes=True))


def _no_end(quote: str) -> str:
    return f"unexpected end of statement while looking for matching {quote}"


def _runs(pattern: list[str]) -> list[str]:
    """What stands between the stars, as regular expressions of one length each."""
    runs: list[str] = [""]
    for part in pattern:
        if part == "*":
            runs.append("")
        else:
            runs[-1] += "." if part == "?" else re.escape(part[-1:])
    return runs


def _regex(pattern: list[str], *, is_longest: bool) -> re.Pattern[str]:
    """For what is between two stars the first place is as good as any, so none is tried again."""
    first, *rest = _runs(pattern)
    if rest:
        middle = "".join(f"(?>.*?{run})" for run in rest[:-1] if run)
        first += f"{middle}{'.*' if is_longest else '.*?'}{rest[-1]}"
    return re.compile(first, re.DOTALL)


def _search(runs: list[re.Pattern[str]], value: str, begin: int) -> tuple[int, int] | None:
    """The first match, and of those there the longest; an empty one is none.

    What is not found behind one place is not found behind a later one either: each is looked at
    once.
    """
    first, *rest = runs
    found = first.search(value, begin)
    if found is None or begin >= len(value):
        return None
    start, end = found.span()
    for run in rest[:-1]:
        found = run.search(value, end)
        if found is None:
            return None
        end = found.end()
    if rest:
        found = re.compile(f".*{rest[-1].pattern}", re.DOTALL).match(value, end)
        if found is None:
            return None
        end = found.end()
    return (start, end) if end > start else None
