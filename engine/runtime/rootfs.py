"""A container's root as init builds it: mounts, devices, console, masks, then pivot_root.

Runs in the container's own mount namespace while the host's tree is still "/". What the image, a
volume or another container controls is resolved beneath the new root's descriptor and used by
descriptor only; what the host gives (sources of bind mounts) is trusted, a path below such a
source, where other containers may write, is not. Failures are `StepFailed`
with the sentence of the reference runtime.
"""

from __future__ import annotations

import errno
import os
import stat

from engine.linux import cgroup, mount, path, pty, syscalls
from engine.linux.cgroup import setup
from engine.linux.oserror import reason
from engine.linux.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC, MS_SLAVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Json = dict[str, Any]

_CGROUP_FLAGS = MS_NOEXEC | MS_NOSUID | MS_NODEV
# runtime-spec "Default Devices": name → (major, minor); ptmx and console come from devpts.
_DEVICES = {
    "full": (1, 7),
    "null": (1, 3),
    "random": (1, 8),
    "tty": (5, 0),
    "urandom": (1, 9),
    "zero": (1, 5),
}
_LINKS = {
    "fd": "/proc/self/fd",
    "ptmx": "pts/ptmx",
    "stderr": "/proc/self/fd/2",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
}
# What may be mounted over below /proc: single files that tools like lxcfs give other contents.
_PROC_FILES = frozenset(
    (
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/loadavg",
        "/proc/meminfo",
        "/proc/slabinfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/sys/crypto/fips_enabled",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/uptime",
    )
)
_SHARED = frozenset({"shared", "rshared"})
_ORDINARY = ("proc", "sysfs")
_MASK_OPTIONS = {"source": "tmpfs", "size": "4k", "nr_inodes": "1"}


class StepFailed(Exception):
    """A step between fork and execve failed; `str()` is the sentence for the client."""

    def __init__(self, step: str, text: str, number: int = 0) -> None:
        super().__init__(text)
        self.step = step
        self.errno = number

    @classmethod
    def of(cls, step: str, what: str, exc: OSError) -> StepFailed:
        return cls(step, f"{what}: {reason(exc)}", exc.errno or 0)


class Root:
    """The new root while it is built. `fd` is its descriptor once it is mounted."""

    __slots__ = (
        "_cgroup_path",
        "_has_cgroup_namespace",
        "_propagation",
        "_sealed",
        "_taken",
        "_where",
        "fd",
    )

    def __init__(self, where: str, *, has_cgroup_namespace: bool, cgroup_path: str) -> None:
        self._where = where
        self._has_cgroup_namespace = has_cgroup_namespace
        self._cgroup_path = cgroup_path
        self._propagation = 0
        self._taken: dict[tuple[str, str], int] = {}
        self._sealed: list[int] = []
        self.fd = -1

    def take_shared(self, entries: Iterable[Json], subpaths: dict[str, str]) -> None:
        """Copy the binds that shall reach the host, before it is cut off.

        What is copied now stays the peer of its source for good. So nothing else needs to be shared
        while the root is built, and no mount made on the way comes to be seen on the host.
        """
        for entry in entries:
            if not _SHARED.intersection(entry.get("options") or ()):
                continue
            source = str(entry.get("source") or "")
            try:
                options = mount.parse(entry["options"])
                origin = _open_source(source, subpaths.get(entry["destination"], ""))
            except (OSError, ValueError):
                continue  # `add` says so
            destination = _destination(entry)
            try:
                tree = mount.clone_tree(origin, recursive=bool(options.flags & syscalls.MS_REC))
            except OSError as exc:
                what = f'error mounting "{source}" to rootfs at "{destination}": open_tree'
                raise StepFailed.of("mounts", what, exc) from exc
            finally:
                os.close(origin)
            self._taken[source, destination] = tree

    def cut_off(self, propagation: str) -> None:
        """Nothing that is mounted from here on is seen on the host."""
        self._propagation = mount.PROPAGATION.get(propagation, 0)
        # All of it, whatever is asked for: the end of the old root must not reach the host.
        syscalls.mount(None, "/", None, MS_SLAVE | MS_REC, None)
        if self._propagation & syscalls.MS_PRIVATE:
            syscalls.mount(None, "/", None, self._propagation, None)

    def take_trees(
        self, entries: Iterable[Json], trees: dict[str, Json], subpaths: dict[str, str]
    ) -> None:
        """Mount what binds have for a source and the host has nowhere, and keep it for `add`.

        `where` is free until the rootfs comes, so that each tree is there for a moment.
        """
        for entry in entries:
            tree = trees.get(entry["destination"])
            if tree is None:
                continue
            destination, source = _destination(entry), str(entry.get("source") or "")
            self._mount_layer(tree, destination)
            subpath = subpaths.get(entry["destination"], "")
            try:
                origin = _open_source(self._where, subpath)
                try:
                    self._taken[source, destination] = mount.clone_tree(origin, recursive=False)
                finally:
                    os.close(origin)
                syscalls.umount2(self._where, syscalls.MNT_DETACH)
            except OSError as exc:
                what = f'error mounting "{source}" to rootfs at "{destination}": stat {subpath}'
                raise StepFailed.of("mounts", what, exc) from exc

    def mount_root(self, layers: list[Json]) -> None:
        """Mount the rootfs. `layers` are mounts over `where`, in order."""
        for layer in layers or [_self_bind(self._where)]:
            self._mount_layer(layer)
        self.fd = path.open_root(self._where)

    def _mount_layer(self, layer: Json, destination: str = "/") -> None:
        options = mount.parse(layer.get("options") or ())
        source = layer.get("source") or layer["type"]
        try:
            if options.is_bind or layer["type"] == "bind":
                target = path.open_root(self._where)
                options.flags |= syscalls.MS_BIND
                _bind(source, target, options)
                os.close(target)
                return
            if layer.get("base"):
                # Deep stacks are given relative to this folder, to fit mount(2)'s one page.
                os.chdir(layer["base"])
            syscalls.mount(source, self._where, layer["type"], options.flags, options.data)
        except OSError as exc:
            what = f'error mounting "{source}" to rootfs at "{destination}"'
            raise StepFailed.of("rootfs", what, exc) from exc
        finally:
            os.chdir("/")

    def add(self, entry: Json, subpath: str = "") -> None:
        """Carry out one entry of the spec's `mounts`; of a bind, `subpath` is what is bound."""
        destination = _destination(entry)
        fstype = entry.get("type") or "bind"
        source = entry.get("source") or fstype
        try:
            options = mount.parse(entry.get("options") or ())
            if fstype == "bind" or options.is_bind:
                options.flags |= syscalls.MS_BIND
                self._mount_bind(source, subpath, destination, options)
            elif fstype == "cgroup":
                self._mount_cgroup(destination, options)
            elif fstype == "tmpfs" and options.flags & MS_RDONLY:
                options.flags &= ~MS_RDONLY
                self._mount_filesystem(source, destination, fstype, options)
                self._sealed.append(path.open_in_root(self.fd, destination))
            else:
                self._mount_filesystem(source, destination, fstype, options)
        except ValueError as exc:
            raise StepFailed("mounts", f'error mounting "{source}": {exc}') from exc
        except OSError as exc:
            what = f'error mounting "{source}" to rootfs at "{destination}": {_where(exc)}'
            raise StepFailed.of("mounts", what, exc) from exc

    def _mount_bind(
        self, source: str, subpath: str, destination: str, options: mount.Options
    ) -> None:
        tree = self._taken.pop((source, destination), -1)
        try:
            origin = os.dup(tree) if tree >= 0 else _open_source(source, subpath)
        except OSError as exc:
            where = f"{source}/{subpath}" if subpath else source
            raise _at(exc, f"stat {where}") from exc
        try:
            is_directory = stat.S_ISDIR(os.fstat(origin).st_mode)
            is_proc = _is_whole_proc(origin)
            target = self._make_target(destination, is_directory=is_directory, is_proc=is_proc)
            try:
                if is_directory != stat.S_ISDIR(os.fstat(target).st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                if tree >= 0:
                    mount.place(tree, target, options)
                else:
                    mount.bind(origin, target, options)
            except OSError as exc:
                raise _at(exc, _call(source, destination, target, options.flags)) from exc
            finally:
                os.close(target)
        finally:
            os.close(origin)

    def _mount_filesystem(
        self, source: str, destination: str, fstype: str, options: mount.Options
    ) -> None:
        if fstype in _ORDINARY:
            self._check_ordinary(destination, fstype)
        mode = self._existing_mode(destination) if fstype == "tmpfs" else None
        is_proc = fstype == "proc"
        target = self._make_target(destination, is_directory=True, is_proc=is_proc)
        try:
            if mode is not None:
                # A tmpfs looks like the directory that it covers, unless told otherwise.
                options.data = f"mode={mode:04o}" + ("," + options.data if options.data else "")
            mount.mount_at(target, source, fstype, options.flags, options.data)
        except OSError as exc:
            call = _call(source, destination, target, options.flags, options.data)
            raise _at(exc, call) from exc
        finally:
            os.close(target)
        if options.propagation:
            self._propagate(destination, options)

    def _propagate(self, destination: str, options: mount.Options) -> None:
        mounted = path.open_in_root(self.fd, destination)
        try:
            for propagation in options.propagation:
                mount.set_propagation(mounted, propagation)
        finally:
            os.close(mounted)

    def _make_target(self, destination: str, *, is_directory: bool, is_proc: bool = False) -> int:
        """What is there, of either kind: it is the mount itself that fails on the wrong one."""
        what = f"create mountpoint for {destination} mount"
        try:
            target = path.open_in_root(self.fd, destination)
        except FileNotFoundError:
            return self._make_mountpoint(destination, what, is_directory=is_directory)
        except OSError as exc:
            lookup = f"securejoin.OpenInRoot {destination}: openat2 {destination}"
            raise _at(exc, f"{what}: lookup mountpoint target: {lookup}") from exc
        if os.path.samestat(os.fstat(target), os.fstat(self.fd)):
            os.close(target)
            text = f'mountpoint "{self._where}" is on the top of rootfs "{self._where}"'
            raise _at(OSError(errno.EINVAL, text), what)
        refusal = "" if is_proc else _refusal(self._where, destination, target)
        if refusal:
            os.close(target)
            check = f"check proc-safety of {destination} mount"
            raise _at(OSError(errno.EINVAL, refusal), f"{what}: {check}")
        return target

    def _make_mountpoint(self, destination: str, what: str, *, is_directory: bool) -> int:
        make = path.mkdir_in_root if is_directory else path.create_in_root
        try:
            return make(self.fd, destination, 0o755)
        except OSError as exc:
            raise _at(exc, f'{what}: make mountpoint "{destination}"') from exc

    def _existing_mode(self, destination: str) -> int | None:
        """None where there is nothing, or no way to it: `_make_target` says what is wrong."""
        try:
            return stat.S_IMODE(path.stat_in_root(self.fd, destination).st_mode)
        except OSError:
            return None

    def _check_ordinary(self, destination: str, fstype: str) -> None:
        """An image may not choose by a link where /proc and /sys come to be."""
        try:
            facts = path.stat_in_root(self.fd, destination, follow=False)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(facts.st_mode):
            text = f'filesystem "{fstype}" must be mounted on ordinary directory'
            raise StepFailed("mounts", text)

    # Control groups

    def _mount_cgroup(self, destination: str, options: mount.Options) -> None:
        if cgroup.version() == 2:
            target = self._make_target(destination, is_directory=True)
            mount.mount_at(target, "cgroup", "cgroup2", options.flags, options.data)
            os.close(target)
            return
        # v1: a tmpfs with one mount a hierarchy; only those carry the options asked for.
        target = self._make_target(destination, is_directory=True)
        mount.mount_at(target, "tmpfs", "tmpfs", _CGROUP_FLAGS, "mode=755")
        os.close(target)
        base = path.open_in_root(self.fd, destination, os.O_PATH | os.O_DIRECTORY)
        try:
            for name, host in cgroup_hierarchies().items():
                self._mount_hierarchy(base, name, host, options.flags & MS_RDONLY)
        finally:
            os.close(base)

    def _mount_hierarchy(self, base: int, name: str, host: str, read_only: int) -> None:
        os.mkdir(name, 0o755, dir_fd=base)
        target = path.open_beneath(base, name)
        try:
            if self._has_cgroup_namespace:
                data = "name=systemd" if name == "systemd" else name
                mount.mount_at(target, "cgroup", "cgroup", _CGROUP_FLAGS | read_only, data)
                return
            own = mount.parse(["bind"])
            own.flags |= _CGROUP_FLAGS | read_only
            _bind(os.path.join(host, self._cgroup_path), target, own)
        finally:
            os.close(target)
        if "," in name:
            for one in name.split(","):
                os.symlink(name, one, dir_fd=base)

    # Devices and console

    def make_devices(self, devices: list[Json]) -> None:
        """/dev's nodes and links; not where the user bound a /dev of their own."""
        folder = path.open_in_root(self.fd, "/dev", os.O_PATH | os.O_DIRECTORY)
        try:
            for name, (major, minor) in _DEVICES.items():
                _make_node(folder, name, stat.S_IFCHR | 0o666, os.makedev(major, minor), 0, 0)
            for name, target in _LINKS.items():
                _make_link(folder, name, target)
        except OSError as exc:
            raise StepFailed.of("devices", "error creating device nodes: mknod /dev", exc) from exc
        finally:
            os.close(folder)
        for device in devices:
            self._make_device(device)

    def _make_device(self, device: Json) -> None:
        where = str(device["path"])
        kind = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
        mode = kind[device["type"]] | (device.get("fileMode") or 0o666) & 0o7777
        number = os.makedev(device.get("major") or 0, device.get("minor") or 0)
        try:
            folder = path.mkdir_in_root(self.fd, os.path.dirname(where))
            try:
                name = os.path.basename(where)
                uid, gid = device.get("uid") or 0, device.get("gid") or 0
                _make_node(folder, name, mode, number, uid, gid)
            finally:
                os.close(folder)
        except OSError as exc:
            what = f"error creating device nodes: mknod {where}"
            raise StepFailed.of("devices", what, exc) from exc

    def open_console(self) -> tuple[int, int]:
        """A terminal of the container's own devpts, bound to /dev/console: (master, terminal)."""
        try:
            master, terminal = open_terminal(self.fd)
            target = path.create_in_root(self.fd, "/dev/console", 0o620)
            try:
                tree = mount.clone_tree(terminal, recursive=False)
                mount.attach_tree(tree, target)
                os.close(tree)
            finally:
                os.close(target)
        except OSError as exc:
            raise StepFailed.of("console", "error opening the console", exc) from exc
        return master, terminal

    # What the container may see but not touch

    def mask(self, paths: list[str]) -> None:
        """Hide files behind /dev/null and directories behind one empty tmpfs."""
        empty = -1
        for where in paths:
            try:
                target = path.open_in_root(self.fd, where)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as exc:
                raise StepFailed.of("mask", f"can't mask path {where!r}", exc) from exc
            try:
                if not stat.S_ISDIR(os.fstat(target).st_mode):
                    _cover(self._null(), target)
                elif empty >= 0:
                    _cover(empty, target)
                else:
                    # Only what is mounted somewhere can be cloned (until Linux 6.15).
                    empty = mount.new_filesystem("tmpfs", _MASK_OPTIONS, syscalls.MOUNT_ATTR_RDONLY)
                    mount.attach_tree(empty, target)
            except OSError as exc:
                raise StepFailed.of("mask", f"can't mask path {where!r}", exc) from exc
            finally:
                os.close(target)
        if empty >= 0:
            os.close(empty)

    def _null(self) -> int:
        """The container's /dev/null, checked to be it (an image or a volume may have another)."""
        fd = path.open_in_root(self.fd, "/dev/null", os.O_PATH | os.O_NOFOLLOW)
        facts = os.fstat(fd)
        if not stat.S_ISCHR(facts.st_mode) or facts.st_rdev != os.makedev(1, 3):
            os.close(fd)
            raise OSError(errno.EINVAL, "/dev/null of the container is not the null device")
        return fd

    def write_protect(self, paths: list[str]) -> None:
        for where in paths:
            try:
                target = path.open_in_root(self.fd, where)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                mount.rebind_read_only(target)
            except OSError as exc:
                raise StepFailed.of("readonly", f"can't make {where!r} read-only", exc) from exc
            finally:
                os.close(target)

    def seal(self) -> None:
        """Make each tmpfs read-only that shall be so: what had to be made in it is there by now."""
        for fd in self._sealed:
            try:
                mount.set_attributes(fd, syscalls.MOUNT_ATTR_RDONLY)
            except OSError as exc:
                raise StepFailed.of("readonly", "can't make a tmpfs read-only", exc) from exc
            finally:
                os.close(fd)
        self._sealed.clear()

    def pivot(self, *, read_only: bool) -> None:
        """Make the new root "/" and let go of the host's tree."""
        os.fchdir(self.fd)
        syscalls.pivot_root(".", ".")
        # The old root lies over the new one now, and is what an unmount of "." means.
        syscalls.umount2(".", syscalls.MNT_DETACH)
        os.chdir("/")
        if self._propagation:
            syscalls.mount(None, "/", None, self._propagation, None)
        if read_only:
            mount.set_attributes(self.fd, syscalls.MOUNT_ATTR_RDONLY)
        os.close(self.fd)
        self.fd = -1


def cgroup_hierarchies() -> dict[str, str]:
    """v1: folder name → where the host has it, as the reference runtime lists them."""
    return {os.path.basename(where): where for where in setup.roots().hierarchies()}


def open_terminal(root: int) -> tuple[int, int]:
    """A terminal of the devpts at /dev/pts beneath `root`: (master, terminal)."""
    flags = os.O_RDWR | os.O_NOCTTY | os.O_NOFOLLOW
    master = path.open_in_root(root, "/dev/pts/ptmx", flags)
    try:
        pty.unlock(master)
        return master, pty.open_peer(master)
    except BaseException:
        os.close(master)
        raise


def _open_source(source: str, subpath: str) -> int:
    if not subpath:
        return os.open(source, os.O_PATH | os.O_CLOEXEC)
    root = path.open_root(source)
    try:
        return path.open_beneath(root, subpath)
    finally:
        os.close(root)


def _self_bind(where: str) -> Json:
    return {"type": "bind", "source": where, "options": ["rbind"]}


def _bind(source: str, target: int, options: mount.Options) -> None:
    origin = os.open(source, os.O_PATH | os.O_CLOEXEC)
    try:
        mount.bind(origin, target, options)
    finally:
        os.close(origin)


def _destination(entry: Json) -> str:
    return "/" + str(entry["destination"]).strip("/")


def _is_whole_proc(fd: int) -> bool:
    """Whether it is the root of a procfs, as `-v /proc:/proc` gives; its inode is always 1."""
    return syscalls.fstatfs_type(fd) == syscalls.PROC_SUPER_MAGIC and os.fstat(fd).st_ino == 1


def _make_node(folder: int, name: str, mode: int, device: int, uid: int, gid: int) -> None:
    try:
        os.mknod(name, mode, device, dir_fd=folder)
    except FileExistsError:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_IFMT(facts.st_mode) != stat.S_IFMT(mode) or facts.st_rdev != device:
            os.unlink(name, dir_fd=folder)
            os.mknod(name, mode, device, dir_fd=folder)
    path.chmod(folder, name, stat.S_IMODE(mode))
    os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)


def _make_link(folder: int, name: str, target: str) -> None:
    try:
        os.symlink(target, name, dir_fd=folder)
    except FileExistsError:
        if name == "ptmx":
            os.unlink(name, dir_fd=folder)
            os.symlink(target, name, dir_fd=folder)


def _cover(source: int, target: int) -> None:
    tree = mount.clone_tree(source, recursive=False)
    try:
        mount.attach_tree(tree, target)
    finally:
        os.close(tree)


def _call(source: str, destination: str, target: int, flags: int, data: str = "") -> str:
    names = mount.flag_names(flags)
    fd = f"/proc/thread-self/fd/{target}"
    given = f", data={data}" if data else ""
    return f"mount src={source}, dst={destination}, dstFd={fd}, flags={names}{given}"


class _During(OSError):
    """A failure that says during what."""

    what = "mount"


def _refusal(root: str, destination: str, target: int) -> str:
    """Why nothing but a procfs may be mounted there; "" where anything may.

    The kernel's files that set a process's confinement must be the kernel's.
    """
    if destination == "/proc":
        return f'"{root}{destination}" cannot be mounted because it is not of type proc'
    is_inside = syscalls.fstatfs_type(target) == syscalls.PROC_SUPER_MAGIC
    if is_inside and destination not in _PROC_FILES:
        return f'"{root}{destination}" cannot be mounted because it is inside /proc'
    return ""


def _at(exc: OSError, what: str) -> OSError:
    """The same failure with its circumstance; one that has it already keeps it."""
    if isinstance(exc, _During):
        return exc
    during = _During(exc.errno, exc.strerror)
    during.what = what
    return during


def _where(exc: OSError) -> str:
    return exc.what if isinstance(exc, _During) else str(exc.filename or "mount")
