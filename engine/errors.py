"""Every failure that is reported on purpose.

    WharfError
    ├── InvalidParameter     the request can never succeed as it is
    │   └── Unclassified     the same, where dockerd gives the fault no kind
    ├── Unauthorized         credentials are missing or wrong
    ├── Forbidden            understood and refused
    ├── NotFound             what was named is not there
    ├── Conflict             it clashes with the state of something else
    ├── NotModified          nothing to do: it is so already
    ├── NotImplementedHere   this engine does not do that
    ├── TooManyRequests      slower, please: a registry counts what is asked of it
    ├── Unavailable          not now
    └── EngineError          the fault is on this side

The kinds say what a caller can do about it; compat turns each kind into a status, in one place.
The sentences are interface: stock clients decide by substrings of them, so each is made by its
class from facts and has a contract test. This module imports nothing of ours.
"""

from __future__ import annotations


class WharfError(Exception):
    """Base of all failures reported on purpose; `str()` is the sentence the client reads."""


class InvalidParameter(WharfError):
    """The request can never succeed as it is."""


class Unclassified(InvalidParameter):
    """The same, where dockerd does not say whose fault it is: clients see status 500."""


class Unauthorized(WharfError):
    """Credentials are missing or wrong."""


class Forbidden(WharfError):
    """Understood and refused."""


class NotFound(WharfError):
    """What was named is not there."""


class Conflict(WharfError):
    """The request clashes with the state of something else."""


class NotModified(WharfError):
    """Nothing to do: the object is in the wanted state already."""


class NotImplementedHere(WharfError):
    """This engine does not do that."""


class TooManyRequests(WharfError):
    """A limit on how often one may ask was reached."""


class Unavailable(WharfError):
    """Not now; the same request may succeed later."""


class EngineError(WharfError):
    """The fault is on this side."""


class NoSpace(EngineError):
    """The disk is full; `path` is what could not be written."""

    def __init__(self, path: str) -> None:
        super().__init__(f"write {path}: no space left on device")
        self.path = path


# Containers


class NoSuchContainer(NotFound):
    def __init__(self, ref: str) -> None:
        super().__init__(f"No such container: {ref}")
        self.ref = ref


class UnreadableContainer(NoSuchContainer):
    """There is one, of which no more is known than its id and its name."""

    def __init__(self, ref: str, container_id: str) -> None:
        super().__init__(ref)
        self.container_id = container_id
        self.args = (f"{self}: its record cannot be read (docker rm -f removes what it has left)",)


class NoSuchExec(NotFound):
    def __init__(self, ref: str) -> None:
        super().__init__(f"No such exec instance: {ref}")
        self.ref = ref


class AmbiguousId(InvalidParameter):
    """Several objects begin with the prefix given (moby errdefs: invalid parameter)."""

    def __init__(self, prefix: str) -> None:
        super().__init__(f"multiple IDs found with provided prefix: {prefix}")
        self.prefix = prefix


class ContainerNameInUse(Conflict):
    def __init__(self, name: str, holder: str) -> None:
        super().__init__(
            f'Conflict. The container name "/{name}" is already in use by container "{holder}". '
            "You have to remove (or rename) that container to be able to reuse that name."
        )
        self.name = name
        self.holder = holder


class SeccompProfileInvalid(Unclassified):
    """A profile that cannot be read, or contradicts itself."""


class SeccompProfileRefused(SeccompProfileInvalid):
    """A profile that dockerd passes on and its runtime refuses: `reason` is the runtime's."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            "failed to create task for container: failed to create shim task: "
            f"OCI runtime create failed: runc create failed: {reason}"
        )


# Images


class NoSuchImage(NotFound):
    """`ref` is what the user typed, with the tag made explicit."""

    def __init__(self, ref: str) -> None:
        super().__init__(f"No such image: {ref}")
        self.ref = ref


# Networks and volumes


class NoSuchNetwork(NotFound):
    def __init__(self, ref: str) -> None:
        super().__init__(f"network {ref} not found")
        self.ref = ref


class UnreadableNetwork(NoSuchNetwork):
    """There is one, of which no more is known than its id and its name."""

    def __init__(self, ref: str, network_id: str) -> None:
        super().__init__(ref)
        self.network_id = network_id
        self.args = (f"{self}: its record cannot be read (docker network rm removes it)",)


class NoSuchVolume(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f"get {name}: no such volume")
        self.name = name


class UnreadableVolume(NoSuchVolume):
    """There is one, of which no more is known than its name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.args = (
            f"{self}: its record cannot be read (docker volume rm -f removes it with its data)",
        )
