"""Which proxy stands between the engine and a URL, as Go's http.ProxyFromEnvironment finds it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.registry.addresses import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yarl import URL


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """One for each scheme of a URL, and the hosts that have none (no_proxy)."""

    http: str = ""
    https: str = ""
    exceptions: tuple[str, ...] = ()

    @classmethod
    def of(cls, http: str, https: str, no_proxy: str, environment: Mapping[str, str]) -> Proxies:
        """What was configured, else what the environment says."""

        def get(configured: str, name: str) -> str:
            return configured or environment.get(name, "") or environment.get(name.lower(), "")

        exceptions = get(no_proxy, "NO_PROXY").split(",")
        return cls(
            http=get(http, "HTTP_PROXY"),
            https=get(https, "HTTPS_PROXY"),
            exceptions=tuple(e.strip().lower() for e in exceptions if e.strip()),
        )

    def for_url(self, url: URL) -> str | None:
        proxy = self.https if url.scheme == "https" else self.http
        host = (url.host or "").lower()
        if not proxy or host == "localhost" or is_loopback(host):
            return None
        if any(_is_exception(entry, host, url.port) for entry in self.exceptions):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"


def _is_exception(entry: str, host: str, port: int | None) -> bool:
    """One entry of no_proxy: `*`, a name and all below it, `.name`, an address, a network."""
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        name, _, wanted = entry.partition(":")
        if wanted and wanted != str(port):
            return False
        name = name.removeprefix("*")
        return host.endswith(name) if name.startswith(".") else f".{host}".endswith(f".{name}")
