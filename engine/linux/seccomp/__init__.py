"""Seccomp filters: Docker's profiles compiled to the bytes that init loads.

The one door to libseccomp (pyseccomp). It is opened at the first compilation, so that a host
without the library can run what needs no filter.
"""

from __future__ import annotations

import functools
import hashlib
import os
from typing import TYPE_CHECKING, Any, cast

from engine.errors import (
    EngineError,
    NotImplementedHere,
    SeccompProfileInvalid,
    SeccompProfileRefused,
)
from engine.linux.seccomp import stub
from engine.linux.seccomp.profile import (
    Condition,
    Profile,
    Rule,
    architectures,
    kernel_of,
    parse,
    select,
)
from engine.version import VERSION

if TYPE_CHECKING:
    from types import ModuleType

__all__ = [
    "Profile",
    "SeccompProfileInvalid",
    "compile",
    "default_profile",
    "filter_flags",
    "fingerprint",
    "is_available",
    "parse",
]

_EPERM = 1
_ENOSYS = 38
_MAX_ARGUMENTS = 6
_MAX_CACHED = 64
# How the runtime says that it failed at this stage rather than before.
_IN_INIT = "unable to start container process: error during container init: "

_ACTIONS = {
    "SCMP_ACT_KILL": "KILL_THREAD",
    "SCMP_ACT_KILL_THREAD": "KILL_THREAD",
    "SCMP_ACT_KILL_PROCESS": "KILL_PROCESS",
    "SCMP_ACT_TRAP": "TRAP",
    "SCMP_ACT_ERRNO": "ERRNO",
    "SCMP_ACT_TRACE": "TRACE",
    "SCMP_ACT_ALLOW": "ALLOW",
    "SCMP_ACT_LOG": "LOG",
    "SCMP_ACT_NOTIFY": "NOTIFY",
}
_PERMISSIVE = frozenset(("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"))
_OPERATORS = {
    "SCMP_CMP_NE": "NE",
    "SCMP_CMP_LT": "LT",
    "SCMP_CMP_LE": "LE",
    "SCMP_CMP_EQ": "EQ",
    "SCMP_CMP_GE": "GE",
    "SCMP_CMP_GT": "GT",
    "SCMP_CMP_MASKED_EQ": "MASKED_EQ",
}
# fmt: off
_ARCHITECTURES = frozenset("SCMP_ARCH_" + name for name in (
    "X86", "X86_64", "X32", "ARM", "AARCH64", "PPC", "PPC64", "PPC64LE", "S390", "S390X",
    "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32", "RISCV64", "LOONGARCH64",
))
# fmt: on
# <linux/seccomp.h> SECCOMP_FILTER_FLAG_*
_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # of no use: init has one thread
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}

_compiled: dict[tuple[str, frozenset[str]], bytes] = {}
_default: Profile | None = None


def default_profile() -> Profile:
    """Docker's, as of moby/profiles seccomp v0.2.3 (it also closes AF_ALG)."""
    global _default
    if _default is None:
        path = os.path.join(os.path.dirname(__file__), "default.json")
        with open(path, encoding="utf-8") as file:
            _default = parse(file.read())
    return _default


def is_available() -> bool:
    """Whether libseccomp is on this host."""
    try:
        _library()
    except EngineError:
        return False
    return True


def compile(profile: Profile, *, capabilities: frozenset[str]) -> bytes:
    """An array of `struct sock_filter` for this machine; b"" if the profile asks for no filter.

    `capabilities` is the container's bounding set ("CAP_…"). Raises SeccompProfileInvalid in
    dockerd's words, and EngineError without libseccomp.
    """
    key = (profile.text, capabilities)
    if key not in _compiled:
        if len(_compiled) >= _MAX_CACHED:
            _compiled.clear()
        _compiled[key] = _compile(profile, capabilities)
    return _compiled[key]


def fingerprint(profile: Profile, *, capabilities: frozenset[str]) -> str:
    """Names what `compile` would make of it here and now, for those who keep that: hex digits.

    Another text, another release of ours, another libseccomp or kernel give another name, so that
    an upgraded daemon goes on with no filter that an older one made.
    """
    uname = os.uname()
    facts = (profile.text, ",".join(sorted(capabilities)), uname.machine, uname.release)
    made_by = (VERSION, *_library_facts())
    return hashlib.sha256("\0".join((*facts, *made_by)).encode("utf-8", "replace")).hexdigest()


def _library_facts() -> tuple[str, ...]:
    """What tells one libseccomp from another: its own file, whose name ends in the version."""
    try:
        library = _library()
    except EngineError:
        return ()
    return (str(library.__version__), *_loaded_file())


@functools.cache
def _loaded_file() -> tuple[str, ...]:
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        paths = (line.rstrip("\n").partition("/")[2] for line in maps)
        path = next(("/" + p for p in paths if p.rpartition("/")[2].startswith("libseccomp")), "")
    try:
        known = os.stat(path)
    except OSError:
        return (path,)
    return (path, str(known.st_size), str(known.st_mtime_ns))


def filter_flags(profile: Profile) -> int:
    """SECCOMP_FILTER_FLAG_* to load it with; without any listed it is SPEC_ALLOW, as with runc."""
    if profile.flags is None:
        return _FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    flags = 0
    for name in profile.flags:
        flags |= _FLAGS[name]
    return flags


def _compile(profile: Profile, capabilities: frozenset[str]) -> bytes:
    if profile.is_empty():
        return b""
    uname = os.uname()
    rules = select(
        profile,
        capabilities=capabilities,
        machine=uname.machine,
        kernel=kernel_of(uname.release),
    )
    arches = architectures(profile, uname.machine)
    _check(profile, arches, rules)
    return _Compiler(_library(), profile, arches, rules).program()


# What dockerd leaves to its runtime to find out, in the runtime's order


def _check(profile: Profile, arches: tuple[str, ...], rules: list[Rule]) -> None:
    _check_known(profile.flags or (), _FLAGS, "seccomp flag {} is not known to runc")
    _check_known(arches, _ARCHITECTURES, "string {} is not a valid arch for seccomp")
    action = "string {} is not a valid action for seccomp"
    _check_known([profile.default_action], _ACTIONS, action)
    for rule in rules:
        _check_known([rule.action], _ACTIONS, action)
        operators = [condition.op for condition in rule.args]
        _check_known(operators, _OPERATORS, "string {} is not a valid operator for seccomp")
    _check_notify(profile, rules)
    for rule in rules:
        _check_rule(rule)


def _check_known(
    values: list[str] | tuple[str, ...], known: dict[str, Any] | frozenset[str], sentence: str
) -> None:
    for value in values:
        if value not in known:
            raise SeccompProfileRefused(sentence.format(value))


def _check_notify(profile: Profile, rules: list[Rule]) -> None:
    if profile.default_action == "SCMP_ACT_NOTIFY":
        raise SeccompProfileRefused(_IN_INIT + "SCMP_ACT_NOTIFY cannot be used as default action")
    if not any(rule.action == "SCMP_ACT_NOTIFY" for rule in rules):
        return
    if not profile.listener_path:
        raise SeccompProfileRefused(_IN_INIT + "seccomp listenerPath is not set")
    raise NotImplementedHere("seccomp profiles with SCMP_ACT_NOTIFY are not supported")


def _check_rule(rule: Rule) -> None:
    if "" in rule.names:
        raise SeccompProfileRefused(_IN_INIT + "empty string is not a valid syscall")
    for condition in rule.args:
        if condition.index >= _MAX_ARGUMENTS:
            name = rule.names[0] if rule.names else ""
            raise SeccompProfileRefused(
                f"{_IN_INIT}error creating seccomp syscall condition for syscall {name}: "
                f"syscalls only have up to 6 arguments ({condition.index} given)"
            )


# libseccomp


def _library() -> ModuleType:
    try:
        import pyseccomp  # type: ignore[import-untyped]
    except (ImportError, RuntimeError) as exc:
        raise EngineError(
            "seccomp profiles need libseccomp, which is not installed on this host"
        ) from exc
    return cast("ModuleType", pyseccomp)


class _Compiler:
    def __init__(
        self, library: ModuleType, profile: Profile, arches: tuple[str, ...], rules: list[Rule]
    ) -> None:
        self._library: Any = library
        self._profile = profile
        self._rules = rules
        # One without a constant is one this libseccomp cannot filter: its calls are refused whole.
        names = (arch.removeprefix("SCMP_ARCH_") for arch in arches)
        known: list[int | None] = [getattr(self._library.Arch, name, None) for name in names]
        self._arches = {self._library.system_arch(), *(a for a in known if a is not None)}
        self._default = self._action(profile.default_action, profile.default_errno_ret)

    def _action(self, name: str, errno_ret: int | None) -> int:
        action = getattr(self._library, _ACTIONS[name])
        if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
            action = action(_EPERM if errno_ret is None else errno_ret)
        return int(action)

    def program(self) -> bytes:
        library = self._library
        compiled = library.SyscallFilter(self._default)
        for arch in sorted(self._arches - {library.system_arch()}):
            compiled.add_arch(arch)
        count = sum(len(rule.names) for rule in self._rules)
        if count > 32:
            # A binary tree over the numbers, not a list: each call of the container passes it.
            self._try_optimize(compiled)
        for rule in self._rules:
            self._add(compiled, rule)
        return self._stub() + _export(compiled)

    def _try_optimize(self, compiled: Any) -> None:
        try:
            compiled.set_attr(self._library.Attr.CTL_OPTIMIZE, 2)
        except OSError:
            return  # an older library: slower, not different

    def _add(self, compiled: Any, rule: Rule) -> None:
        action = self._action(rule.action, rule.errno_ret)
        if action == self._default:
            return  # libseccomp refuses a rule that changes nothing
        for name in rule.names:
            number = self._library.resolve_syscall(self._library.Arch.NATIVE, name)
            # A name unknown to this library is skipped, as by runc: the default holds for it.
            if number != -1:
                self._add_call(compiled, action, name, number, rule.args)

    def _add_call(
        self, compiled: Any, action: int, name: str, number: int, args: tuple[Condition, ...]
    ) -> None:
        conditions = [self._condition(arg) for arg in args]
        # One argument may be compared once a rule: twice means two rules, of which one suffices.
        is_repeated = len({arg.index for arg in args}) < len(args)
        groups = [[c] for c in conditions] if is_repeated else [conditions]
        for group in groups:
            try:
                compiled.add_rule(action, number, *group)
            except OSError as exc:
                reason = os.strerror(exc.errno or 0).lower()
                raise SeccompProfileRefused(
                    f"{_IN_INIT}error adding seccomp filter rule for syscall {name}: {reason}"
                ) from exc

    def _condition(self, arg: Condition) -> Any:
        operator = getattr(self._library, _OPERATORS[arg.op])
        return self._library.Arg(arg.index, operator, arg.value, arg.value_two)

    def _stub(self) -> bytes:
        """Nothing where the default is ENOSYS already, or lets unknown calls pass."""
        if self._profile.default_action in _PERMISSIVE or self._default == 0x00050000 | _ENOSYS:
            return b""
        x32 = self._library.Arch.X32
        highest = {arch: self._highest(arch) for arch in self._arches}
        last = {arch: number for arch, number in highest.items() if number and arch != x32}
        return stub.build(last, highest.get(x32) or None)

    def _highest(self, arch: int) -> int:
        numbers = (
            self._library.resolve_syscall(arch, name) for rule in self._rules for name in rule.names
        )
        # Negative: unknown, or known on another architecture only.
        return max((number for number in numbers if number > 0), default=0)


def _export(compiled: Any) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    with open(fd, "w+b") as file:
        compiled.export_bpf(file)
        file.seek(0)
        return file.read()
