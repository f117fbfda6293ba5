"""The host driver: a container in the host's own network namespace.

There is one such network, it has no subnet and no link, and nothing is published on it.
"""

from __future__ import annotations

from typing import Final

from engine.errors import Forbidden, InvalidParameter
from engine.network import driver

NAME: Final = "host"
SANDBOX: Final = "default"
"""The name under which every such container shows its sandbox."""


class OneInstance(Forbidden):
    def __init__(self, driver: str) -> None:
        super().__init__(f'only one instance of "{driver}" network is allowed')


class CannotConnect(InvalidParameter):
    def __init__(self) -> None:
        super().__init__(
            "cannot connect container to host network - container must be created in host "
            "network mode"
        )


class CannotDisconnect(InvalidParameter):
    def __init__(self) -> None:
        super().__init__(
            "cannot disconnect container from host network - container was created in host "
            "network mode"
        )


class Driver(driver.Driver):
    name = NAME
    has_many = False
    is_host_namespace = True

    def check_disconnect(self) -> None:
        raise CannotDisconnect
