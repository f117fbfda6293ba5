"""Detach keys as users write them: `ctrl-p,ctrl-q`, single characters, DEL; case counts."""

from __future__ import annotations

_CONTROL = {
    **{f"ctrl-{chr(letter)}": letter - 96 for letter in range(97, 123)},
    "ctrl-@": 0,
    "ctrl-[": 27,
    "ctrl-\\": 28,
    "ctrl-]": 29,
    "ctrl-^": 30,
    "ctrl-_": 31,
    "DEL": 127,
}


def parse(text: str) -> bytes:
    """The bytes to look for, b"" for the default; ValueError if a key is none."""
    if not text:
        return b""
    return bytes(_key(word) for word in text.split(","))


def _key(word: str) -> int:
    if len(word) == 1 and word.isascii():
        return ord(word)
    try:
        return _CONTROL[word]
    except KeyError:
        raise ValueError(f"Unknown character: '{word}'") from None
