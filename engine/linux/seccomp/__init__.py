"""seccomp(2): lists of rules compiled to the bytes that init loads.

The one door to libseccomp (pyseccomp). It is opened at the first compilation, so that a host
without the library can run what needs no filter. Actions, operators and architectures have the
names of libseccomp's header, which are those of the runtime spec.
"""

from __future__ import annotations

import errno
import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from engine.linux.seccomp import stub

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from types import ModuleType

ACTIONS = {
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
OPERATORS = {
    "SCMP_CMP_NE": "NE",
    "SCMP_CMP_LT": "LT",
    "SCMP_CMP_LE": "LE",
    "SCMP_CMP_EQ": "EQ",
    "SCMP_CMP_GE": "GE",
    "SCMP_CMP_GT": "GT",
    "SCMP_CMP_MASKED_EQ": "MASKED_EQ",
}
_PERMISSIVE = frozenset(("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"))
_RET_ENOSYS = 0x00050000 | errno.ENOSYS


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg:
    """Compares argument `index` of a call; `value_two` is used by SCMP_CMP_MASKED_EQ alone."""

    index: int
    value: int
    value_two: int = 0
    op: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is done with calls of these names whose arguments compare as said."""

    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    args: tuple[Arg, ...] = ()


class RuleError(OSError):
    """A rule that libseccomp does not take, for the call `syscall`."""

    def __init__(self, number: int, syscall: str) -> None:
        super().__init__(number, os.strerror(number))
        self.syscall = syscall


def is_available() -> bool:
    """Whether libseccomp is on this host."""
    try:
        _library()
    except OSError:
        return False
    return True


def library_facts() -> tuple[str, ...]:
    """What tells one libseccomp from another: its own file, whose name ends in the version."""
    try:
        library = _library()
    except OSError:
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


def compile(
    rules: Sequence[Rule],
    *,
    architectures: Collection[str],
    default_action: str,
    default_errno_ret: int | None = None,
) -> bytes:
    """An array of `struct sock_filter` for this machine and the architectures it knows of those.

    Actions and operators are to be among ACTIONS and OPERATORS. Raises RuleError, and OSError
    (ELIBACC) without libseccomp.
    """
    library = _library()
    default = _action(library, default_action, default_errno_ret)
    compiler = _Compiler(library, default, architectures)
    program = compiler.program(rules)
    if default_action in _PERMISSIVE or default == _RET_ENOSYS:
        return program  # calls that no rule names are not told that they are forbidden
    return compiler.stub(rules) + program


def _library() -> ModuleType:
    try:
        import pyseccomp  # type: ignore[import-untyped]
    except (ImportError, RuntimeError) as exc:
        raise OSError(errno.ELIBACC, os.strerror(errno.ELIBACC), "libseccomp") from exc
    return cast("ModuleType", pyseccomp)


def _action(library: Any, name: str, errno_ret: int | None) -> int:
    action = getattr(library, ACTIONS[name])
    if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        action = action(errno.EPERM if errno_ret is None else errno_ret)
    return int(action)


class _Compiler:
    def __init__(self, library: ModuleType, default: int, architectures: Collection[str]) -> None:
        self._library: Any = library
        self._default = default
        # One without a constant is one this libseccomp cannot filter: its calls are refused whole.
        names = (name.removeprefix("SCMP_ARCH_") for name in architectures)
        known: list[int | None] = [getattr(self._library.Arch, name, None) for name in names]
        self._arches = {self._library.system_arch(), *(a for a in known if a is not None)}

    def program(self, rules: Sequence[Rule]) -> bytes:
        library = self._library
        compiled = library.SyscallFilter(self._default)
        for arch in sorted(self._arches - {library.system_arch()}):
            compiled.add_arch(arch)
        count = sum(len(rule.names) for rule in rules)
        if count > 32:
            # A binary tree over the numbers, not a list: each call of the container passes it.
            self._try_optimize(compiled)
        for rule in rules:
            self._add(compiled, rule)
        return _export(compiled)

    def stub(self, rules: Sequence[Rule]) -> bytes:
        x32 = self._library.Arch.X32
        highest = {arch: self._highest(arch, rules) for arch in self._arches}
        last = {arch: number for arch, number in highest.items() if number and arch != x32}
        return stub.build(last, highest.get(x32) or None)

    def _try_optimize(self, compiled: Any) -> None:
        try:
            compiled.set_attr(self._library.Attr.CTL_OPTIMIZE, 2)
        except OSError:
            return  # an older library: slower, not different

    def _add(self, compiled: Any, rule: Rule) -> None:
        action = _action(self._library, rule.action, rule.errno_ret)
        if action == self._default:
            return  # libseccomp refuses a rule that changes nothing
        for name in rule.names:
            number = self._library.resolve_syscall(self._library.Arch.NATIVE, name)
            # A name unknown to this library is skipped, as by runc: the default holds for it.
            if number != -1:
                self._add_call(compiled, action, name, number, rule.args)

    def _add_call(
        self, compiled: Any, action: int, name: str, number: int, args: tuple[Arg, ...]
    ) -> None:
        comparisons = [self._comparison(arg) for arg in args]
        # One argument may be compared once a rule: twice means two rules, of which one suffices.
        is_repeated = len({arg.index for arg in args}) < len(args)
        groups = [[c] for c in comparisons] if is_repeated else [comparisons]
        for group in groups:
            try:
                compiled.add_rule(action, number, *group)
            except OSError as exc:
                raise RuleError(exc.errno or 0, name) from exc

    def _comparison(self, arg: Arg) -> Any:
        operator = getattr(self._library, OPERATORS[arg.op])
        return self._library.Arg(arg.index, operator, arg.value, arg.value_two)

    def _highest(self, arch: int, rules: Sequence[Rule]) -> int:
        numbers = (
            self._library.resolve_syscall(arch, name) for rule in rules for name in rule.names
        )
        # Negative: unknown, or known on another architecture only.
        return max((number for number in numbers if number > 0), default=0)


def _export(compiled: Any) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    with open(fd, "w+b") as file:
        compiled.export_bpf(file)
        file.seek(0)
        return file.read()
