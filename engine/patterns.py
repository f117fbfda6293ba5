r"""Regular expressions that users give: Go's syntax, and time that grows with the text alone.

Python's own `re` goes back and tries again: `(a+)+$` on a name of 27 letters takes it seconds, and
each letter doubles that. Here all ways through a pattern are followed side by side (Thompson's
construction), and where they lead is remembered, so that most letters cost one look into a table.

    regexp     = sequence { "|" sequence }
    sequence   = { atom [ ( "*" | "+" | "?" | "{" n [ "," [ m ] ] "}" ) [ "?" ] ] }
    atom       = character | "." | "^" | "$" | "\" escape | "[" set "]" | group
    group      = "(" [ "?" flags ":" | "?P<" name ">" ] regexp ")"

Only whether a pattern is found is told, so groups capture nothing and greed makes no difference.
The grammar and the sentences are those of Go's regexp/syntax; of `\p`, general categories alone.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

LARGEST = 5000
"""Most nodes of a pattern, counted repetitions written out."""

_SPECIAL = frozenset("\\.+*?()|[]{}^$")
_MOST_REPEATS = 1000
_DEEPEST = 100
_REMEMBERED = 4096

_Ranges = tuple[tuple[str, str], ...]

_DIGIT: _Ranges = (("0", "9"),)
_WORD: _Ranges = (("0", "9"), ("A", "Z"), ("_", "_"), ("a", "z"))
_SPACE: _Ranges = (("\t", "\n"), ("\f", "\r"), (" ", " "))
_PERL = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_POSIX: dict[str, _Ranges] = {
    "alnum": (("0", "9"), ("A", "Z"), ("a", "z")),
    "alpha": (("A", "Z"), ("a", "z")),
    "ascii": (("\0", "\x7f"),),
    "blank": (("\t", "\t"), (" ", " ")),
    "cntrl": (("\0", "\x1f"), ("\x7f", "\x7f")),
    "digit": _DIGIT,
    "graph": (("!", "~"),),
    "lower": (("a", "z"),),
    "print": ((" ", "~"),),
    "punct": (("!", "/"), (":", "@"), ("[", "`"), ("{", "~")),
    "space": (("\t", "\r"), (" ", " ")),
    "upper": (("A", "Z"),),
    "word": _WORD,
    "xdigit": (("0", "9"), ("A", "F"), ("a", "f")),
}
_CONTROL = {"a": "\a", "f": "\f", "t": "\t", "n": "\n", "r": "\r", "v": "\v"}
_OCTAL = "01234567"
# The second letters of the general categories of Unicode, by their first.
_CATEGORIES = {
    "C": "cfos",
    "L": "lmotu",
    "M": "cen",
    "N": "dlo",
    "P": "cdefios",
    "S": "ckmo",
    "Z": "lps",
}


class BadPattern(ValueError):
    """What Go says of it, without its "error parsing regexp: "."""

    def __init__(self, reason: str, where: str) -> None:
        super().__init__(f"{reason}: `{where}`")


# What a node is: one character, a condition on the place, or a fork


@dataclass(frozen=True, slots=True)
class _Class:
    """Characters: those in the ranges, of the categories or of the classes; or all others."""

    ranges: _Ranges = ()
    categories: tuple[str, ...] = ()
    classes: tuple[_Class, ...] = ()
    is_negated: bool = False
    folds: bool = False

    def has(self, char: str) -> bool:
        forms = {char, char.lower(), char.upper()} if self.folds else (char,)
        return any(map(self._names, forms)) != self.is_negated

    def _names(self, char: str) -> bool:
        return (
            any(low <= char <= high for low, high in self.ranges)
            or any(unicodedata.category(char).startswith(c) for c in self.categories)
            or any(each.has(char) for each in self.classes)
        )


_ANY = _Class(is_negated=True)
_ANY_BUT_NEWLINE = _Class(ranges=(("\n", "\n"),), is_negated=True)
_IS_WORD = _Class(ranges=_WORD)

_BEGIN_TEXT, _END_TEXT, _BEGIN_LINE, _END_LINE, _BOUNDARY, _NO_BOUNDARY = (
    "A",
    "z",
    "^",
    "$",
    "b",
    "B",
)


@dataclass(slots=True)
class _Node:
    """A `test` that leads to the first of `to`; without one a fork to all of them."""

    test: _Class | str | None
    to: list[int]


def _holds(condition: str, before: str, after: str) -> bool:
    """Whether a place between two characters is what it should be; "" is where the text ends."""
    match condition:
        case "A":
            return before == ""
        case "z":
            return after == ""
        case "^":
            return before in ("", "\n")
        case "$":
            return after in ("", "\n")
        case _:
            is_boundary = _is_word(before) != _is_word(after)
            return is_boundary == (condition == _BOUNDARY)


def _is_word(char: str) -> bool:
    return char != "" and _IS_WORD.has(char)


# Reading


@dataclass(frozen=True, slots=True)
class _Flags:
    folds: bool = False
    many_lines: bool = False
    dot_is_all: bool = False


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of the graph with one way in and one way out, a fork that leads nowhere yet."""

    first: int
    last: int


class _Parser:
    """Reads a pattern and builds the graph as it goes."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._flags = _Flags()
        self._depth = 0
        self.nodes: list[_Node] = []

    def parse(self) -> _Part:
        whole = self._alternatives()
        if self._at < len(self._text):
            raise BadPattern("unexpected )", self._text)
        return whole

    def _peek(self, text: str) -> bool:
        return self._text.startswith(text, self._at)

    def _take(self, text: str) -> bool:
        if not self._peek(text):
            return False
        self._at += len(text)
        return True

    def _next(self) -> str:
        self._at += 1
        return self._text[self._at - 1]

    @property
    def _is_at_end(self) -> bool:
        return self._at >= len(self._text)

    # The graph

    def _node(self, test: _Class | str | None, *to: int) -> int:
        if len(self.nodes) >= LARGEST:
            raise BadPattern("expression too large", self._text)
        self.nodes.append(_Node(test, list(to)))
        return len(self.nodes) - 1

    def _empty(self) -> _Part:
        only = self._node(None)
        return _Part(only, only)

    def _single(self, test: _Class | str) -> _Part:
        last = self._node(None)
        return _Part(self._node(test, last), last)

    def _joined(self, one: _Part, other: _Part) -> _Part:
        self.nodes[one.last].to.append(other.first)
        return _Part(one.first, other.last)

    def _optional(self, part: _Part, *, loops: bool = False) -> _Part:
        last = self._node(None)
        first = self._node(None, part.first, last)
        self.nodes[part.last].to.append(first if loops else last)
        return _Part(first, last)

    # The grammar

    def _alternatives(self) -> _Part:
        branches = [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        if len(branches) == 1:
            return branches[0]
        last = self._node(None)
        for branch in branches:
            self.nodes[branch.last].to.append(last)
        return _Part(self._node(None, *(branch.first for branch in branches)), last)

    def _sequence(self) -> _Part:
        whole = self._empty()
        while not self._is_at_end and not self._peek("|") and not self._peek(")"):
            begin, flags = self._at, self._flags
            part = self._atom()
            if part is None:
                continue
            end = self._at
            bounds = self._bounds()
            if bounds is not None:
                part = self._repeated(part, bounds, begin, end, flags)
                self._check_no_second(end)
            whole = self._joined(whole, part)
        return whole

    def _bounds(self) -> tuple[int, int | None] | None:
        """How often what was read may come; None without a word of it."""
        begin = self._at
        if self._take("*"):
            bounds: tuple[int, int | None] = (0, None)
        elif self._take("+"):
            bounds = (1, None)
        elif self._take("?"):
            bounds = (0, 1)
        elif (counted := self._counted()) is not None:
            bounds = counted
            least, most = bounds
            if least > _MOST_REPEATS or (most is not None and not least <= most <= _MOST_REPEATS):
                raise BadPattern("invalid repeat count", self._text[begin : self._at])
        else:
            return None
        self._take("?")  # as few as possible: that is found in the same places
        return bounds

    def _counted(self) -> tuple[int, int | None] | None:
        """`{n}`, `{n,}` or `{n,m}`; anything else is meant as it stands."""
        end = self._text.find("}", self._at)
        if not self._peek("{") or end < 0:
            return None
        least, comma, most = self._text[self._at + 1 : end].partition(",")
        for number in (least, most):
            has_zero_before = number.startswith("0") and len(number) > 1
            if number and (not number.isdecimal() or not number.isascii() or has_zero_before):
                return None
        if not least or len(least) > 9 or len(most) > 9:
            return None
        self._at = end + 1
        return int(least), (int(most) if most else None if comma else int(least))

    def _check_no_second(self, begin: int) -> None:
        if self._bounds() is not None:
            raise BadPattern("invalid nested repetition operator", self._text[begin : self._at])

    def _repeated(
        self, part: _Part, bounds: tuple[int, int | None], begin: int, end: int, flags: _Flags
    ) -> _Part:
        """The part as often as it may come, read again for each time."""

        def again() -> _Part:
            """Once more from the same text: a graph of its own."""
            at, kept = self._at, self._flags
            self._at, self._flags = begin, flags
            copy = self._atom()
            assert copy is not None
            assert self._at == end
            self._at, self._flags = at, kept
            return copy

        least, most = bounds
        if most is None:
            if least == 0:
                return self._optional(part, loops=True)
            whole = part
            for _ in range(least - 1):
                whole = self._joined(whole, again())
            return self._joined(whole, self._optional(again(), loops=True))
        if most == 0:
            return self._empty()
        whole = part if least else self._optional(part)
        for number in range(1, most):
            whole = self._joined(whole, again() if number < least else self._optional(again()))
        return whole

    def _atom(self) -> _Part | None:
        """One thing that may be repeated; None for flags alone, which are none."""
        begin = self._at
        char = self._next()
        match char:
            case "(":
                return self._group(begin)
            case "[":
                return self._single(self._set(begin))
            case ".":
                return self._single(_ANY if self._flags.dot_is_all else _ANY_BUT_NEWLINE)
            case "^":
                return self._single(_BEGIN_LINE if self._flags.many_lines else _BEGIN_TEXT)
            case "$":
                return self._single(_END_LINE if self._flags.many_lines else _END_TEXT)
            case "*" | "+" | "?":
                raise BadPattern("missing argument to repetition operator", char)
            case "\\":
                return self._escaped(begin)
            case "{":
                self._at = begin
                if self._counted() is not None:
                    where = self._text[begin : self._at]
                    raise BadPattern("missing argument to repetition operator", where)
                self._at = begin + 1
        return self._literal(char)

    def _literal(self, char: str) -> _Part:
        return self._single(_Class(ranges=((char, char),), folds=self._flags.folds))

    def _group(self, begin: int) -> _Part | None:
        flags = self._flags
        if self._peek("?"):
            if not self._peek("?P") and not self._peek("?<"):
                if self._switched(begin):
                    return None
            else:
                self._name(begin)
        self._depth += 1
        if self._depth > _DEEPEST:
            raise BadPattern("expression nests too deeply", self._text)
        inside = self._alternatives()
        if not self._take(")"):
            raise BadPattern("missing closing )", self._text)
        self._depth -= 1
        self._flags = flags
        return inside

    def _name(self, begin: int) -> None:
        """`?P<name>` or `?<name>`."""
        self._at += 2
        if self._text[self._at - 1] == "P" and not self._take("<"):
            where = self._text[begin : self._at + 1]
            raise BadPattern("invalid or unsupported Perl syntax", where)
        end = self._text.find(">", self._at)
        if end < 0:
            if self._text[self._at : self._at + 1] in ("=", "!"):
                where = self._text[begin : self._at + 1]
                raise BadPattern("invalid or unsupported Perl syntax", where)
            raise BadPattern("invalid named capture", self._text[begin:])
        name = self._text[self._at : end]
        if not name or not all(_is_word(char) for char in name):
            if name[:1] in ("=", "!"):
                where = self._text[begin : self._at + 1]
                raise BadPattern("invalid or unsupported Perl syntax", where)
            raise BadPattern("invalid named capture", self._text[begin : end + 1])
        self._at = end + 1

    def _switched(self, begin: int) -> bool:
        """`?flags:` or `?flags)`; whether that was all of the group."""
        self._at += 1
        values = {
            "i": self._flags.folds,
            "m": self._flags.many_lines,
            "s": self._flags.dot_is_all,
            "U": False,
        }
        is_on, has_any = True, False
        while not self._is_at_end:
            char = self._next()
            if char in values:
                values[char], has_any = is_on, True
            elif char == "-" and is_on:
                is_on, has_any = False, False
            elif char in ":)" and (is_on or has_any):
                self._flags = _Flags(values["i"], values["m"], values["s"])
                return char == ")"
            else:
                where = self._text[begin : self._at]
                raise BadPattern("invalid or unsupported Perl syntax", where)
        raise BadPattern("missing closing )", self._text)

    def _escaped(self, begin: int) -> _Part:
        """After a backslash, outside of a set."""
        if self._is_at_end:
            raise BadPattern("trailing backslash at end of expression", "")
        for text, condition in (
            ("A", _BEGIN_TEXT),
            ("z", _END_TEXT),
            ("b", _BOUNDARY),
            ("B", _NO_BOUNDARY),
        ):
            if self._take(text):
                return self._single(condition)
        if self._take("Q"):
            return self._quoted()
        if (found := self._class(begin)) is not None:
            return self._single(found)
        return self._literal(self._character(begin))

    def _quoted(self) -> _Part:
        end = self._text.find("\\E", self._at)
        text = self._text[self._at : end if end >= 0 else None]
        self._at += len(text) + (2 if end >= 0 else 0)
        whole = self._empty()
        for char in text:
            whole = self._joined(whole, self._literal(char))
        return whole

    def _class(self, begin: int) -> _Class | None:
        r"""`\d` and its like, `\pL`, `\p{Lu}`; None if it is something else."""
        char = self._text[self._at]
        if char.lower() in _PERL:
            self._at += 1
            return _Class(
                ranges=_PERL[char.lower()], is_negated=char.isupper(), folds=self._flags.folds
            )
        if char not in "pP":
            return None
        self._at += 1
        if self._is_at_end:
            raise BadPattern("invalid character class range", self._text[begin : self._at])
        name = self._next()
        if name == "{":
            end = self._text.find("}", self._at)
            if end < 0:
                raise BadPattern("invalid character class range", self._text[begin:])
            name, self._at = self._text[self._at : end], end + 1
        is_negated = (char == "P") != name.startswith("^")
        name = name.removeprefix("^")
        if name == "Any":
            return _Class(is_negated=not is_negated)
        if not name or len(name) > 2 or name[1:] not in ("", *_CATEGORIES.get(name[0], "")):
            raise BadPattern("invalid character class range", self._text[begin : self._at])
        return _Class(categories=(name,), is_negated=is_negated, folds=self._flags.folds)

    def _character(self, begin: int) -> str:
        """The one character that an escape means; `begin` is where the backslash is."""
        if self._is_at_end:
            raise BadPattern("trailing backslash at end of expression", "")
        char = self._next()
        if char in _CONTROL:
            return _CONTROL[char]
        if char in _OCTAL:
            following = self._text[self._at : self._at + 1]
            if char == "0" or (following and following in _OCTAL):
                digits = char
                while len(digits) < 3 and not self._is_at_end and self._text[self._at] in _OCTAL:
                    digits += self._next()
                return chr(int(digits, 8))
        elif char == "x":
            return self._hexadecimal(begin)
        elif char.isascii() and not char.isalnum():
            return char
        raise BadPattern("invalid escape sequence", self._text[begin : self._at])

    def _hexadecimal(self, begin: int) -> str:
        if self._take("{"):
            end = self._text.find("}", self._at)
            digits = self._text[self._at : end] if end >= 0 else ""
            self._at = end + 1 if end >= 0 else len(self._text)
        else:
            digits = self._text[self._at : self._at + 2]
            self._at += len(digits)
            digits = digits if len(digits) == 2 else ""
        is_number = bool(digits) and all(c in "0123456789abcdefABCDEF" for c in digits)
        if not is_number or len(digits) > 8 or int(digits, 16) > 0x10FFFF:
            raise BadPattern("invalid escape sequence", self._text[begin : self._at])
        return chr(int(digits, 16))

    def _set(self, begin: int) -> _Class:
        """What stands in brackets; a bracket or a dash first stands for itself."""
        is_negated = self._take("^")
        ranges: list[tuple[str, str]] = []
        classes: list[_Class] = []
        is_first = True
        while is_first or not self._peek("]"):
            if self._is_at_end:
                raise BadPattern("missing closing ]", self._text[begin:])
            is_first = False
            found = self._named_class()
            if found is not None:
                classes.append(found)
                continue
            start = self._at
            low = self._in_set(begin)
            high = low
            if self._peek("-") and not self._peek("-]") and self._at + 1 < len(self._text):
                self._at += 1
                high = self._in_set(begin)
                if high < low:
                    where = self._text[start : self._at]
                    raise BadPattern("invalid character class range", where)
            ranges.append((low, high))
        self._at += 1
        return _Class(tuple(ranges), (), tuple(classes), is_negated, self._flags.folds)

    def _named_class(self) -> _Class | None:
        """`[:alpha:]` or `\\d`, within brackets."""
        if self._peek("[:"):
            end = self._text.find(":]", self._at + 2)
            if end < 0:
                return None
            where = self._text[self._at : end + 2]
            name = where[2:-2]
            ranges = _POSIX.get(name.removeprefix("^"))
            if ranges is None:
                raise BadPattern("invalid character class range", where)
            self._at = end + 2
            return _Class(ranges=ranges, is_negated=name.startswith("^"), folds=self._flags.folds)
        if self._peek("\\") and self._at + 1 < len(self._text):
            self._at += 1
            found = self._class(self._at - 1)
            if found is None:
                self._at -= 1
            return found
        return None

    def _in_set(self, begin: int) -> str:
        if self._is_at_end:
            raise BadPattern("missing closing ]", self._text[begin:])
        char = self._next()
        return self._character(self._at - 1) if char == "\\" else char


# Finding


class Pattern:
    """A compiled pattern. What it has learned of texts it keeps, up to a bound."""

    def __init__(self, text: str) -> None:
        """Raises BadPattern."""
        self._plain = text if _SPECIAL.isdisjoint(text) else None
        parser = _Parser("" if self._plain is not None else text)
        whole = parser.parse()
        self._nodes = parser.nodes
        self._first = whole.first
        self._last = whole.last
        self._known: dict[tuple[frozenset[int], str, str], frozenset[int] | None] = {}

    def search(self, text: str) -> bool:
        """Whether the pattern is found anywhere in the text."""
        if self._plain is not None:
            return self._plain in text
        places = frozenset((self._first,))
        before = ""
        for after in (*text, ""):
            step = self._step(places, before, after)
            if step is None:
                return True
            places, before = step, after
        return False

    def _step(self, places: frozenset[int], before: str, after: str) -> frozenset[int] | None:
        """Where all ways lead past the next character; None as soon as one is at its end."""
        key = (places, before, after)
        if key in self._known:
            return self._known[key]
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        found = self._known[key] = self._follow(places, before, after)
        return found

    def _follow(self, places: frozenset[int], before: str, after: str) -> frozenset[int] | None:
        waiting, seen = list(places), set(places)
        beyond = {self._first}
        while waiting:
            number = waiting.pop()
            if number == self._last:
                return None
            node = self._nodes[number]
            if isinstance(node.test, _Class):
                if after and node.test.has(after):
                    beyond.add(node.to[0])
                continue
            if node.test is not None and not _holds(node.test, before, after):
                continue
            for following in node.to:
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
        return frozenset(beyond)


@lru_cache(maxsize=64)
def compile(text: str) -> Pattern:
    """Raises BadPattern."""
    return Pattern(text)
