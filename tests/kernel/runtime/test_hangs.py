"""What hangs on its way to a running program keeps nobody waiting for good."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from engine.linux import cgroup
from engine.runtime import client
from engine.runtime.client import RuntimeFailure
from tests.kernel.runtime.harness import Box, until

if TYPE_CHECKING:
    from collections.abc import Callable

    InBox = Callable[[Any], Any]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_BIRTH_TIMEOUT_S", 3.0)  # what else they do takes less


def test_an_init_that_hangs_is_ended_by_its_group(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("true")
        group = bundle.spec["linux"]["cgroupsPath"]
        cgroup.create(group)
        cgroup.freeze(group)  # whoever enters it stands still
        with pytest.raises(RuntimeFailure, match="has not answered for 3 seconds"):
            await box.runtime.create(bundle)
        await until(lambda: not cgroup.exists(group))
        assert not box.runtime._tasks

    in_box(scenario)


def test_a_launcher_that_stands_still(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("true")
        launcher = box.launcher_pid
        os.kill(launcher, signal.SIGSTOP)
        try:
            with pytest.raises(RuntimeFailure, match="has not answered"):
                await box.runtime.create(bundle)
        finally:
            os.kill(launcher, signal.SIGCONT)
        assert await box.run("true") == (0, "")
        assert not cgroup.exists(bundle.spec["linux"]["cgroupsPath"])

    in_box(scenario)


def test_an_exec_that_hangs_never_runs(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sleep", "1000")
        task = await box.start(bundle)
        group = bundle.spec["linux"]["cgroupsPath"]
        cgroup.freeze(group)
        process = {"args": ["touch", "/ran"], "cwd": "/", "env": ["PATH=/bin"]}
        with pytest.raises(RuntimeFailure, match="has not answered"):
            await task.exec("late", process)
        cgroup.thaw(group)
        await until(lambda: cgroup.processes(group) == [task.pid])
        assert not (box.where / bundle.id[:12] / "upper/ran").exists()
        assert await task.exec("next", {**process, "args": ["true"]}) > 0
        assert await box.events.exec_exit_of("next") == 0

    in_box(scenario)
