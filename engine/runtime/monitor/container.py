"""A container in a monitor: what outlives its runs, and its restart policy.

    run ── over ─▶ decide ── no restart ─▶ told, and the end
     ▲                └── restart: told, back-off ─▶ making ── failed ─▶ told, and the end
     └──────────────────────────────────────────────────┘

Ports, resolver, network namespace and the daemon's connection stay through all runs; a run
(monitor/run.py) has a control group, streams, a log handle and a first process of its own. Each is
made by a process that ends with that, so what it takes to read a specification is not kept here.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import traceback

from engine.linux import oserror, process, syscalls
from engine.runtime import init, protocol
from engine.runtime.monitor import creation, handover
from engine.runtime.monitor.group import end_group
from engine.runtime.monitor.loop import EPOLLIN
from engine.runtime.monitor.relay import Relay, key_of
from engine.runtime.monitor.resolver import Resolver
from engine.runtime.monitor.restart import Policy
from engine.runtime.monitor.run import Run
from engine.runtime.protocol import Entry, Exit, ListenerOptions, StateReply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Protocol

    from engine.runtime.monitor.handover import Handover
    from engine.runtime.monitor.journal import Journal
    from engine.runtime.monitor.loop import Loop, Timer
    from engine.runtime.monitor.reaper import Reaper
    from engine.runtime.protocol import Json

    class Owner(Protocol):
        """Whoever carries messages to the daemon, and is told when nothing is left to do."""

        def say(self, message: protocol.Message, fds: tuple[int, ...] = ()) -> None: ...
        def on_idle(self) -> None: ...


_NS = 10**9
_RECORD_AGAIN_S = 5.0
# As long as the daemon waits for a first start: there are disks and mounts to wait for.
_MAKING_S = 120.0
_MOST_FAULTS = 10


class Container:
    """Made of what its creation handed over.

    `exit` stands once it is over, and `is_recorded` says whether it stands in the journal too.
    """

    __slots__ = (
        "_bundle",
        "_confinement",
        "_faults",
        "_folded",
        "_has_maker_ended",
        "_last",
        "_limit",
        "_making",
        "_owner",
        "_policy",
        "_relays",
        "_resolver",
        "_run",
        "_timer",
        "cgroup",
        "exit",
        "is_recorded",
        "journal",
        "loop",
        "reaper",
    )

    def __init__(
        self,
        loop: Loop,
        reaper: Reaper,
        journal: Journal,
        owner: Owner,
        taken: Handover,
    ) -> None:
        facts = taken.facts
        self.loop = loop
        self.reaper = reaper
        self.journal = journal
        self.cgroup: str = facts["cgroup"]
        self.exit: Exit | None = None
        self.is_recorded = False
        self._owner = owner
        self._bundle: str = facts["bundle"]
        self._confinement: init.Confinement | None = None
        self._faults = 0
        self._policy = Policy(facts["restart"])
        self._last: Exit | None = None  # of the run before the next, while there is none
        self._timer: Timer | None = None  # until the next run is made
        self._making: handover.Receiver | None = None  # the next run is on its way
        self._limit: Timer | None = None
        self._has_maker_ended = True
        self._folded: list[Run] = []  # runs that are over and not quiet
        self._relays = [
            Relay(loop, taken.fd(index), [ListenerOptions.from_json(each) for each in options])
            for index, options in facts["relays"]
        ]
        self._resolver: Resolver | None = None
        if facts["resolver"]:
            self.resolve(facts["resolver_path"], [taken.fd(index) for index in facts["resolver"]])
        self._run = Run(self, taken, None)

    @property
    def version(self) -> int:
        """Of the protocol that a daemon has to know to go on with this container."""
        return protocol.VERSION if self._policy.is_kept else protocol.NO_RESTARTS

    @property
    def has_process(self) -> bool:
        """`pidfd` is open."""
        return self._run.has_process

    @property
    def pidfd(self) -> int:
        return self._run.pidfd

    @property
    def is_idle(self) -> bool:
        """Over, and nobody waits for more output."""
        return self.exit is not None and self._run.is_quiet and not self._folded

    @property
    def confinement(self) -> init.Confinement:
        """Read from the bundle when first asked for: most containers never see an exec."""
        if self._confinement is None:
            bundle = protocol.Bundle.from_json(json.loads(self._bundle))
            self._confinement = init.Confinement(bundle)
        return self._confinement

    def say(self, message: protocol.Message, fds: tuple[int, ...] = ()) -> None:
        self._owner.say(message, fds)

    # While it runs

    def signal(self, signo: int, exec_id: str | None) -> None:
        self._run.signal(signo, exec_id)

    def resize(self, height: int, width: int, exec_id: str | None) -> None:
        """Raises OSError."""
        self._run.resize(height, width, exec_id)

    def attach(self, request: protocol.Attach, fds: list[int]) -> None:
        """Takes the descriptor out of `fds`. Raises OSError."""
        self._run.attach(request, fds)

    def exec(self, request: protocol.Exec, fds: list[int]) -> None:
        """Takes the attachment's out of `fds`. Raises OSError when there is nothing to join."""
        self._run.exec(request, fds)

    def acknowledge_exec(self, exec_id: str) -> None:
        self.journal.acknowledge(exec_id)
        for run in (self._run, *self._folded):
            run.acknowledge_exec(exec_id)

    def resolve(self, path: str, fds: list[int]) -> None:
        """Takes both descriptors out of `fds`."""
        if self._resolver is not None:
            self._resolver.close()
        tcp, udp = (socket.socket(fileno=fds.pop()) for _ in range(2))
        self._resolver = Resolver(self.loop, udp, tcp, path, self._on_resolver_fault)

    def publish(self, listeners: list[Json], fds: list[int]) -> None:
        """See protocol.Publish; takes the descriptors out of `fds`."""
        held = {key: relay for relay in self._relays for key in relay.keys}
        relays: dict[Relay, None] = {}
        last: Relay | None = None
        for document in listeners:
            options = ListenerOptions.from_json(document)
            if options.is_held or not fds:
                if (relay := held.pop(key_of(options), None)) is not None:
                    relay.lead_to(options)
                    relays[relay] = None
            elif options.is_shared and last is not None:
                os.close(fds.pop(0))
                last.share(options)
            else:
                last = Relay(self.loop, fds.pop(0), [options])
                relays[last] = None
        for relay in dict.fromkeys(held.values()):
            relay.drop(held)
        self._relays = list(relays)

    def _on_resolver_fault(self) -> None:
        """Written down a few times only: whoever found the question can ask it again."""
        if self._faults < _MOST_FAULTS:
            self._faults += 1
            self.journal.append(Entry.FAULT, time.time_ns(), {"text": traceback.format_exc()})

    def watch(self, is_on: bool) -> None:
        self._run.watch(is_on)

    def amend(self, resources: Json) -> None:
        """What later runs are limited to, where it changes."""
        bundle = json.loads(self._bundle)
        known = bundle["spec"].setdefault("linux", {}).setdefault("resources", {})
        for kind, changes in resources.items():
            if isinstance(changes, dict):
                known.setdefault(kind, {}).update(changes)
            else:
                known[kind] = changes
        self._bundle = protocol.dump(bundle)

    def state(self, seq: int) -> StateReply:
        status = StateReply.RUNNING
        if self.exit is not None:
            status = StateReply.STOPPED
        elif self._last is not None:
            status = StateReply.RESTARTING
        how = self.exit or self._last
        execs: Json = {}
        for run in (*self._folded, self._run):
            execs.update(run.execs())
        return StateReply(
            seq=seq,
            status=status,
            pid=0 if self._last is not None else self._run.pid,
            started_ns=self._run.started_ns,
            exit=None if how is None else how.to_json(),
            execs=execs,
            health=self._run.health(),
            restarts=self._policy.count if self._policy.is_kept else None,
        )

    # Of a run

    def on_over(self, run: Run, ended: Exit) -> None:
        ended.again_ns = self._policy.decide(code=ended.code, ran_ns=run.ran_ns)
        if self._policy.is_kept:
            ended.count = self._policy.count
        if ended.again_ns is None:
            self._end(ended)
            return
        self._last = ended
        self._record(ended)
        self.say(protocol.Exited(exit=ended.to_json()))
        self._timer = self.loop.call_later(ended.again_ns / _NS, self._make_again)

    def on_quiet(self) -> None:
        """Clients or execs of some run have come to their end."""
        self._folded = [run for run in self._folded if not run.is_quiet]
        if self.is_idle:
            self._owner.on_idle()

    # The next run

    def change_policy(self, restart: Json | None) -> None:
        """From the next exit on, as dockerd has it: a restart that waits is done."""
        self._policy.change(restart)

    def give_up(self) -> None:
        """Run no more after this run, or after the one that is being made."""
        self._policy.give_up()
        if self._timer is not None:
            self._timer.cancel()
            self._end_without(None)

    def _make_again(self) -> None:
        self._timer = None
        try:
            ours, theirs = handover.make_pair()
            try:
                maker = os.fork()
            except OSError:
                os.close(ours)
                os.close(theirs)
                raise
        except OSError as exc:
            self._end_without({"step": "monitor", "text": oserror.sentence(exc)})
            return
        if maker == 0:
            _make(theirs, self._bundle)
        os.close(theirs)
        # Its child becomes this process's when it ends, and may have ended by then.
        self.reaper.remember_strangers(True)
        self._has_maker_ended = False
        self._making = handover.Receiver(ours)
        self.loop.add(ours, EPOLLIN, self._on_made)
        self._limit = self.loop.call_later(_MAKING_S, lambda: self._stop_maker(maker))
        self.reaper.watch(maker, self._on_maker_end)

    def _stop_maker(self, maker: int) -> None:
        """It takes too long. Nobody else reaps it, so the number is its own until that is known."""
        if not self._has_maker_ended:
            os.kill(maker, signal.SIGKILL)

    def _on_maker_end(self, _code: int) -> None:
        self._has_maker_ended = True

    def _on_made(self, _events: int) -> None:
        making = self._making
        assert making is not None
        fd = making.fileno()
        if making.read():
            return
        self.loop.forget(fd)
        self._making = None
        taken = making.handover
        if taken is None:
            # It was killed, or took too long: what it made is nobody's.
            failure = {"step": "monitor", "text": "making the container was given up"}
            end_group(self.loop, self.cgroup, lambda: self._end_without(failure))
        elif "failed" in taken.facts:
            self._end_without(taken.facts["failed"])
        else:
            self._begin(taken)
        self._stop_making()

    def _stop_making(self) -> None:
        self.reaper.remember_strangers(False)
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _begin(self, taken: Handover) -> None:
        before, last = self._run, self._last
        self._last = None
        if not before.is_quiet:
            self._folded.append(before)
        log = (last.health or {}).get("log") if last is not None else None
        run = self._run = Run(self, taken, log)
        facts = {"pid": run.pid, "count": self._policy.count}
        self.journal.append(Entry.STARTED, run.started_ns, facts)
        message = protocol.Restarted(pid=run.pid, at_ns=run.started_ns, count=self._policy.count)
        self.say(message, (os.dup(run.pidfd),))
        if self._policy.is_given_up:
            run.signal(signal.SIGKILL, None)

    def _end_without(self, failure: Json | None) -> None:
        """The restart that was on its way does not come; the last run's end is the container's."""
        ended, self._last, self._timer = self._last, None, None
        assert ended is not None
        ended.again_ns = None
        ended.failure = failure
        self._end(ended)

    # The end

    def _end(self, ended: Exit) -> None:
        """Ports and resolver go first: whoever hears of the end may start another run."""
        for relay in self._relays:
            relay.close()
        self._relays.clear()
        if self._resolver is not None:
            self._resolver.close()
            self._resolver = None
        self.exit = ended
        document = ended.to_json()
        self._record_exit(ended)
        self.say(protocol.Exited(exit=document))
        self._owner.on_idle()

    def _record(self, ended: Exit) -> bool:
        return self.journal.append(Entry.EXITED, ended.at_ns, ended.to_json())

    def _record_exit(self, ended: Exit) -> None:
        self.is_recorded = self._record(ended)
        if not self.is_recorded:
            self.loop.call_later(_RECORD_AGAIN_S, lambda: self._record_again(ended))

    def _record_again(self, ended: Exit) -> None:
        """Until there is room: a daemon that was away has it from nowhere else."""
        self._record_exit(ended)
        self._owner.on_idle()


def _make(successor: int, bundle: str) -> NoReturn:
    """Be the maker of a run."""
    code = 1
    try:
        # It ends with the monitor: nobody else would look after what it makes.
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        process.keep_only([successor])
        creation.run_again(successor, bundle)
        code = 0
    finally:
        os._exit(code)
