"""Which kinds of links this kernel makes."""

from __future__ import annotations

import errno
import functools
import os

import pytest

from engine.linux import netlink, syscalls, thread


@functools.cache
def has(kind: str) -> bool:
    """Whether links of that kind can be made; asked in a namespace that is thrown away."""
    if os.geteuid() != 0:
        return False

    def ask() -> bool:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        body = netlink._ifinfo() + netlink.nested(
            netlink.IFLA_LINKINFO, netlink.text(netlink.IFLA_INFO_KIND, kind)
        )
        message = netlink.Message(
            netlink.RTM_NEWLINK, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, body
        )
        with netlink.Socket() as sock:
            (error,) = sock.attempt(message)
        return error is None or error.errno != errno.EOPNOTSUPP

    return thread.apart(ask, name="kinds")


def needs(*kinds: str) -> pytest.MarkDecorator:
    """Skips a test where the kernel makes no such links, and says which."""
    missing = [kind for kind in kinds if not has(kind)]
    return pytest.mark.skipif(bool(missing), reason=f"the kernel has no {' and '.join(missing)}")
