"""Searching an index: GET /v1/search, the one request of registries' first protocol still in use.

Docker Hub's index answers unless the term names a host (`127.0.0.1:5000/busybox`). Such an index is
asked for `/v1/_ping` first, over https and, if it is insecure, else over http (moby
registry/search.go, endpoint_v1.go).
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote_plus

import msgspec

from engine import filters as filters_
from engine import gojson
from engine.errors import EngineError, InvalidParameter, WharfError
from engine.oci.document import without_nulls
from engine.registry import mirror
from engine.registry.auth import ANONYMOUS, Authorizer
from engine.registry.mirror import Endpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from engine.filters import Filters
    from engine.registry.auth import RegistryAuth
    from engine.registry.transport import Origin, Transport

USUAL_LIMIT = 25
LARGEST_LIMIT = 100
LARGEST_ANSWER_BYTES = 4 << 20
SCOPE = "registry:catalog:search"

_KNOWN_FILTERS = frozenset({"is-automated", "is-official", "stars"})


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    """A repository that was found. Nothing is automated any more, whatever an index says."""

    star_count: int = 0
    is_official: bool = False
    name: str = ""
    description: str = ""


class _Results(msgspec.Struct):
    results: tuple[SearchResult, ...] = ()


class Criteria:
    """What a result must be. Raises InvalidParameter for filters that there are not."""

    def __init__(self, filters: Filters) -> None:
        filters_.check(filters, _KNOWN_FILTERS)
        self.is_nothing = _truth(filters, "is-automated") is True
        self._is_official = _truth(filters, "is-official")
        self._fewest_stars = max((0, *map(_stars, filters.get("stars", ()))))

    def accept(self, result: SearchResult) -> bool:
        if self._is_official is not None and result.is_official != self._is_official:
            return False
        return result.star_count >= self._fewest_stars


def _truth(filters: Filters, name: str) -> bool | None:
    if name in filters and not filters[name]:
        raise filters_.UnknownFilter(name)
    return filters_.truth(filters, name)


def _stars(text: str) -> int:
    said = f"invalid filter 'stars={text}': strconv.Atoi: parsing \"{text}\""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdecimal()):
        raise InvalidParameter(f"{said}: invalid syntax")
    if len(digits.lstrip("0")) > 18:
        raise InvalidParameter(f"{said}: value out of range")
    return int(text)


class Index:
    """The index that one term is for."""

    def __init__(
        self,
        transport: Transport,
        config: mirror.ServiceConfig,
        resolve: Callable[[str], Awaitable[Iterable[str]]],
    ) -> None:
        self._transport = transport
        self._config = config
        self._resolve = resolve

    async def search(self, term: str, limit: int, auth: RegistryAuth) -> tuple[SearchResult, ...]:
        """What the index has for `term`; `limit` 0 is the usual one.

        Raises InvalidParameter for what cannot be asked or nobody answers, EngineError for answers
        that are none.
        """
        if "://" in term:
            raise InvalidParameter(
                f"invalid repository name: repository name ({term}) should not have a scheme"
            )
        host, name = _split(term)
        if mirror.is_hub(host):
            origin = await self._transport.origin(Endpoint(url=f"https://{mirror.INDEX_HOST}"))
            name = name.removeprefix("library/")
        else:
            origin = await self._find(host)
        limit = limit or USUAL_LIMIT
        if not 1 <= limit <= LARGEST_LIMIT:
            raise InvalidParameter(f"limit {limit} is outside the range of [1, {LARGEST_LIMIT}]")
        url = f"{origin.url}/v1/search?q={quote_plus(name)}&n={limit}"
        headers = {"X-Docker-Token": "true", **await self._authorization(origin, url, auth)}
        async with self._transport.request(origin, "GET", url, headers=headers) as response:
            if response.status != 200:
                raise EngineError(f"Unexpected status code {response.status}")
            return _decode(await response.read(LARGEST_ANSWER_BYTES))

    async def _find(self, host: str) -> Origin:
        """Where the index answers."""
        is_secure = await mirror.is_secure(self._config, host, self._resolve)
        origin = await self._transport.origin(Endpoint(url=f"https://{host}", is_secure=is_secure))
        try:
            await self._ping(origin)
        except WharfError as exc:
            if is_secure:
                raise _invalid_endpoint(host, exc) from exc
            return await self._find_in_plain_text(host, exc)
        return origin

    async def _find_in_plain_text(self, host: str, failure: WharfError) -> Origin:
        origin = await self._transport.origin(Endpoint(url=f"http://{host}", is_secure=False))
        try:
            await self._ping(origin)
        except WharfError as exc:
            raise InvalidParameter(
                f'invalid registry endpoint "http://{host}/v1/". '
                f"HTTPS attempt: {failure}. HTTP attempt: {exc}"
            ) from exc
        return origin

    async def _ping(self, origin: Origin) -> None:
        """Any answer at all will do."""
        async with self._transport.request(origin, "GET", f"{origin.url}/v1/_ping"):
            return

    async def _authorization(self, origin: Origin, url: str, auth: RegistryAuth) -> dict[str, str]:
        """Basic for a password; for an identity token what the registry itself asks for."""
        if auth.identity_token and auth.username:
            request = self._transport.request(origin, "GET", f"{origin.url}/v2/")
            async with request as response:
                challenges = response.challenges
            authorizer = Authorizer(
                self._transport, origin, auth, challenges=challenges, scopes=(SCOPE,)
            )
            return await authorizer.headers("GET", url)
        return {"Authorization": auth.basic} if auth.username else {}


async def search(
    index: Index, term: str, *, limit: int, filters: Filters, auth: RegistryAuth | None
) -> list[SearchResult]:
    """The results that pass the filters, in the index's order."""
    criteria = Criteria(filters)
    if criteria.is_nothing:
        return []
    found = await index.search(term, limit, auth or ANONYMOUS)
    return [result for result in found if criteria.accept(result)]


def _split(term: str) -> tuple[str, str]:
    """The index's host and what to look for there; the first part is a host if it looks so."""
    first, slash, rest = term.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first, rest
    return mirror.HUB, term


def _invalid_endpoint(host: str, exc: WharfError) -> InvalidParameter:
    return InvalidParameter(
        f"invalid registry endpoint https://{host}/v1/: {exc}. "
        "If this private registry supports only HTTP or HTTPS with an unknown CA certificate, "
        f"please add `--insecure-registry {host}` to the daemon's arguments. In the case of HTTPS, "
        "if you have access to the registry's CA certificate, no need for the flag; "
        f"simply place the CA certificate at /etc/docker/certs.d/{host}/ca.crt"
    )


def _decode(data: bytes) -> tuple[SearchResult, ...]:
    try:
        return msgspec.convert(without_nulls(gojson.loads(data)) or {}, _Results).results
    except msgspec.ValidationError as exc:
        names = {"_Results": "registry.SearchResults", "SearchResult": "registry.SearchResult"}
        said = gojson.type_error(data, _Results, names, frozenset()) or str(exc)
    except msgspec.DecodeError as exc:
        said = gojson.syntax_error(data, str(exc))
    except UnicodeDecodeError:
        said = "invalid UTF-8 in string"
    except RecursionError:
        said = gojson.TOO_DEEP
    raise EngineError(f"error decoding registry search results: {said}")
