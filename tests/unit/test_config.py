"""engine.config: the defaults, and the name that an instance has on its host."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import DEFAULT_DATA_ROOT, EngineConfig


def test_a_daemon_without_flags_is_the_hosts_own_engine() -> None:
    config = EngineConfig()
    assert config.data_root == DEFAULT_DATA_ROOT
    assert config.is_default_instance
    assert config.hosts == ("unix:///var/run/docker.sock",)
    assert config.live_restore


def test_another_data_root_is_another_instance() -> None:
    other = EngineConfig(data_root="/srv/wharf")
    assert not other.is_default_instance
    assert other.instance != EngineConfig().instance


@given(st.text(min_size=1))
def test_an_instance_is_eight_hex_digits_and_stays_the_same(data_root: str) -> None:
    instance = EngineConfig(data_root=data_root).instance
    assert len(instance) == 8
    assert set(instance) <= set(string.hexdigits.lower())
    assert instance == EngineConfig(data_root=data_root).instance


def test_the_value_cannot_change() -> None:
    with pytest.raises(AttributeError):
        EngineConfig().mtu = 9000  # type: ignore[misc]
