"""Failures of a start, in the words that clients look for.

`docker run` turns them into 125, 126 or 127 by substring, so the sentences keep the layers that
dockerd's have (containerd, shim, runc), although none of these programs is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine.errors import EngineError, InvalidParameter, Unclassified

if TYPE_CHECKING:
    from engine.errors import WharfError

_TASK = "failed to create task for container: failed to create shim task: "
_CREATE = _TASK + "OCI runtime create failed: runc create failed: "
_INIT = _CREATE + "unable to start container process: error during container init: "
_EXEC = "OCI runtime exec failed: exec failed: unable to start container process: "  # of an exec

# Told as dockerd does, which makes that directory at create.
_NO_WORKING_DIRECTORY = "Cannot mkdir: "
# A host that may not lower the score of anything is not a command that cannot be run.
_NO_LOWER_SCORE = "write /proc/self/oom_score_adj: "

COMMAND_NOT_EXECUTABLE = 126
COMMAND_NOT_FOUND = 127
UNKNOWN = 128

_MOUNT_HINT = (
    ": Are you trying to mount a directory onto a file (or vice-versa)? "
    "Check if the specified host path exists and is the expected type"
)


class StartFailure(NamedTuple):
    """What a failed start leaves behind: the exit code to show, and the error to raise."""

    exit_code: int
    error: WharfError


class SpecFailure(Unclassified):
    """The runtime would refuse this configuration."""

    def __init__(self, cause: str) -> None:
        super().__init__(_CREATE + cause)


class ExecRefused(Unclassified):
    """The runtime would refuse this process of a container that runs."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"OCI runtime exec failed: exec failed: {cause}")


def of_create(text: str, *, in_init: bool = True) -> StartFailure:
    """The failure of a container's own process; `text` begins at runc's "exec: …"."""
    if text.startswith(_NO_WORKING_DIRECTORY):
        return StartFailure(UNKNOWN, InvalidParameter(text))
    if text.startswith(_NO_LOWER_SCORE):
        return StartFailure(UNKNOWN, InvalidParameter(_INIT + text))
    return classify((_INIT if in_init else _CREATE) + text)


def of_exec(text: str) -> StartFailure:
    return classify(_EXEC + text)


def classify(sentence: str) -> StartFailure:
    """moby daemon/errors.go setExitCodeFromError: the code is read off the sentence."""
    lowered = sentence.lower()
    if "permission denied" in lowered:
        return StartFailure(COMMAND_NOT_EXECUTABLE, InvalidParameter(sentence))
    if "is a directory" in lowered:
        return StartFailure(
            COMMAND_NOT_EXECUTABLE, InvalidParameter(sentence + ": permission denied")
        )
    if "not a directory" in lowered:
        return StartFailure(COMMAND_NOT_FOUND, InvalidParameter(sentence + _MOUNT_HINT))
    if "executable file not found" in lowered or "no such file or directory" in lowered:
        return StartFailure(COMMAND_NOT_FOUND, InvalidParameter(sentence))
    return StartFailure(UNKNOWN, EngineError(sentence))
