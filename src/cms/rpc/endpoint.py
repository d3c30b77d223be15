"""The place where command and daemon meet: the socket in the home folder.

Both ends use these few functions, so that they agree on who may speak, and on how a path is reached that does
not fit into a socket address. Cheap to import: the fast commands load it.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cms.errors import DaemonUnavailable

if TYPE_CHECKING:
    from pathlib import Path

#: Bytes of a path that fit into `sockaddr_un` everywhere (104 on macOS, 108 on Linux, with the final NUL).
MAX_ADDRESS = 100


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """An address for `path` that fits into a socket address, valid inside the block.

    Raises:
        DaemonUnavailable: the path is too long, and this system has no way around it.
        OSError: the folder cannot be opened.
    """
    if len(os.fsencode(path)) <= MAX_ADDRESS:
        yield str(path)
        return
    if sys.platform != "linux":
        raise DaemonUnavailable(
            f"the path of the socket is longer than {MAX_ADDRESS} bytes: {path}",
            hint="set CMS_HOME to a shorter path",
        )
    # Through the folder's descriptor. Not by chdir (all threads share one work dir), not by a link elsewhere.
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def peer_uid(getsockopt: Callable[[int, int, int], bytes]) -> int:
    """The user at the other end of a socket, as the kernel noted it when the connection was made.

    Takes the socket's method instead of the socket, because trio's sockets are no subclass.

    Raises:
        OSError: the system does not say. Fail closed.
    """
    if sys.platform == "linux":
        credentials = getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        uid: int = struct.unpack("3i", credentials)[1]
        return uid
    elif sys.platform == "darwin":
        # LOCAL_PEERCRED (1) of SOL_LOCAL (0) gives `struct xucred`: version, uid, groups.
        version, uid = struct.unpack_from("2I", getsockopt(0, 1, 76))
        if version != 0:
            raise OSError(f"xucred of version {version}")
        return int(uid)
    else:
        raise OSError(f"{sys.platform} does not tell who is at the other end of a Unix socket")
