"""The null driver: a network namespace with a loopback link and nothing else."""

from __future__ import annotations

from typing import Final

from engine.errors import InvalidParameter
from engine.network import driver

NAME: Final = "null"


class OnlyNetwork(InvalidParameter):
    def __init__(self) -> None:
        super().__init__(
            "container cannot be connected to multiple networks with one of the networks in "
            "private (none) mode"
        )


class Driver(driver.Driver):
    name = NAME
    has_many = False
