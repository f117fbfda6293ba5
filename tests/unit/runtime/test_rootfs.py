"""A container's root, as far as it can be built without being root."""

from __future__ import annotations

import gc
import os

import pytest

from engine.linux import mount
from engine.runtime import rootfs


def test_a_shared_bind_that_cannot_be_copied_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_source: int, *, recursive: bool) -> int:
        raise OSError(22, os.strerror(22))

    monkeypatch.setattr(mount, "clone_tree", refuse)
    root = rootfs.Root("/nowhere", has_cgroup_namespace=False, cgroup_path="")
    entry = {"destination": "/data/", "source": "/", "options": ["rbind", "rshared"]}
    gc.collect()  # what other tests have left is not to go in between
    before = os.listdir("/proc/self/fd")
    with pytest.raises(rootfs.StepFailed) as failed:
        root.take_shared([entry], {})
    assert os.listdir("/proc/self/fd") == before
    assert failed.value.step == "mounts"
    assert str(failed.value) == (
        'error mounting "/" to rootfs at "/data": open_tree: invalid argument'
    )
