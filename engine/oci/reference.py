"""References: what users and registries call an image (distribution/reference).

    reference  = name [":" tag] ["@" digest]
    name       = [domain "/"] path

A *familiar* reference leaves out what Docker fills in: `busybox` is `docker.io/library/busybox`.
The sentences of the errors are those of dockerd.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from engine.errors import InvalidParameter
from engine.oci import digest as digests
from engine.oci.digest import Digest

DEFAULT_DOMAIN = "docker.io"
LEGACY_DEFAULT_DOMAIN = "index.docker.io"
OFFICIAL_PREFIX = "library/"
DEFAULT_TAG = "latest"
LONGEST_PATH = 255

_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_COMPONENT}(?:\.{_COMPONENT})*|\[(?:[a-fA-F0-9:]+)\])"
_DOMAIN = rf"{_HOST}(?::[0-9]+)?"
_PART = r"[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*"
_PATH = rf"{_PART}(?:/{_PART})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9A-Fa-f]{32,}"
_REFERENCE = re.compile(rf"((?:{_DOMAIN}/)?{_PATH})(?::({_TAG}))?(?:@({_DIGEST}))?")
_NAME = re.compile(rf"(?:({_DOMAIN})/)?({_PATH})")
_TAG_ONLY = re.compile(_TAG)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")


class InvalidReference(InvalidParameter):
    """`text` names no image; `str()` is dockerd's sentence."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(reason)
        self.text = text


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A name, fully spelled out, with a tag or a digest or both or neither.

    `domain` is "" where what looks like one can be none ("ex_ample.com/x").
    """

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    def __str__(self) -> str:
        return self.name + self._suffix()

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return tag + (f"@{self.digest}" if self.digest else "")

    @property
    def name(self) -> str:
        return f"{self.domain}/{self.path}" if self.domain else self.path

    @property
    def familiar_name(self) -> str:
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        rest = self.path.removeprefix(OFFICIAL_PREFIX)
        return self.path if "/" in rest else rest

    @property
    def familiar(self) -> str:
        """As users see it."""
        return self.familiar_name + self._suffix()

    @property
    def is_name_only(self) -> bool:
        return self.tag is None and self.digest is None

    def with_tag(self, tag: str) -> Reference:
        """The same with another tag; raises InvalidReference."""
        if not _TAG_ONLY.fullmatch(tag):
            raise InvalidReference(tag, "invalid tag format")
        return replace(self, tag=tag)

    def with_digest(self, digest: Digest) -> Reference:
        return replace(self, digest=digest)

    def with_default_tag(self) -> Reference:
        """The same, `latest` where there is neither tag nor digest."""
        return replace(self, tag=DEFAULT_TAG) if self.is_name_only else self

    def name_only(self) -> Reference:
        return replace(self, tag=None, digest=None)

    def stored(self) -> Reference:
        """The form under which it is kept: a digest wins over a tag."""
        return replace(self, tag=None) if self.digest else self.with_default_tag()


def parse(text: str) -> Reference:
    """The reference that `text` is, Docker's defaults filled in; raises InvalidReference."""
    if _IDENTIFIER.fullmatch(text):
        raise InvalidReference(
            text,
            f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings",
        )
    domain, remainder = _split_domain(text)
    remote = remainder.split(":", 1)[0]
    if remote.lower() != remote:
        raise InvalidReference(
            text, f"invalid reference format: repository name ({remote}) must be lowercase"
        )
    return _parse_full(text, f"{domain}/{remainder}")


def _parse_full(text: str, full: str) -> Reference:
    match = _REFERENCE.fullmatch(full)
    if match is None:
        if _REFERENCE.fullmatch(full.lower()):
            raise InvalidReference(text, "repository name must be lowercase")
        raise InvalidReference(text, "invalid reference format")
    name = _NAME.fullmatch(match[1])
    domain, path = (name[1] or "", name[2]) if name else ("", match[1])
    if len(path) > LONGEST_PATH:
        raise InvalidReference(
            text, f"repository name must not be more than {LONGEST_PATH} characters"
        )
    digest = digests.parse(match[3]) if match[3] else None
    return Reference(domain=domain, path=path, tag=match[2], digest=digest)


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash:
        return DEFAULT_DOMAIN, OFFICIAL_PREFIX + name
    if first == LEGACY_DEFAULT_DOMAIN:
        domain, remote = DEFAULT_DOMAIN, rest
    elif first == "localhost" or "." in first or ":" in first or first.lower() != first:
        domain, remote = first, rest
    else:
        domain, remote = DEFAULT_DOMAIN, name
    if domain == DEFAULT_DOMAIN and "/" not in remote:
        remote = OFFICIAL_PREFIX + remote
    return domain, remote


def parse_any(text: str) -> Reference | Digest:
    """As `parse`, but 64 hex digits or a digest alone name an image by its id."""
    if _IDENTIFIER.fullmatch(text):
        return Digest(f"sha256:{text}")
    if digests.is_digest(text):
        return Digest(text)
    return parse(text)


def from_repo_and_tag(repo: str, tag: str) -> Reference | None:
    """What `repo` and `tag` of a request name: None for nothing (moby httputils.RepoTagReference).

    A digest in `repo` is refused; the tag defaults to latest.
    """
    if not repo:
        return None
    reference = parse(repo)
    if reference.digest:
        raise InvalidReference(repo, "cannot import digest reference")
    return (reference.with_tag(tag) if tag else reference).with_default_tag()


def familiar_match(pattern: str, reference: Reference) -> bool:
    """Whether a shell pattern names it, with or without tag (filter `reference`)."""
    try:
        matcher = re.compile(_translate(pattern))
    except re.error:
        raise InvalidReference(pattern, "syntax error in pattern") from None
    return bool(matcher.fullmatch(reference.familiar) or matcher.fullmatch(reference.familiar_name))


def _translate(pattern: str) -> str:
    """Go's path.Match as a regular expression: unlike fnmatch's, `*` and `?` stop at a slash."""
    translated: list[str] = []
    i = 0
    while i < len(pattern):
        char = pattern[i]
        i += 1
        if char == "*":
            translated.append("[^/]*")
        elif char == "?":
            translated.append("[^/]")
        elif char == "[":
            end = pattern.find("]", i + 1)
            if end < 0:
                raise re.error("unterminated class")
            inner = pattern[i:end]
            negated = inner.startswith("^")
            translated.append(
                f"[{'^' if negated else ''}{re.escape(inner[negated:])}]".replace("\\-", "-")
            )
            i = end + 1
        elif char == "\\":
            if i >= len(pattern):
                raise re.error("trailing backslash")
            translated.append(re.escape(pattern[i]))
            i += 1
        else:
            translated.append(re.escape(char))
    return "".join(translated)
