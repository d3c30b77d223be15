"""The daemon as a systemd service: what it tells the service manager, and the unit that it runs under.

`Type=notify` lets `systemctl start` return when the daemon serves, and the watchdog ends one whose event loop
has stopped turning. The protocol is one datagram of `KEY=value` lines to the socket in `NOTIFY_SOCKET` (see
sd_notify(3)); that is less than what a dependency would cost.

Why a unit at all: a delegated cgroup is what makes a machine's level A (`cms doctor`), it takes the sessions
along in a logout, and systemd's own kill stands behind ours.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

import trio

from cms.systemd import user_unit

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
#: Lines of the unit, with the reason beside each that is not obvious.
_UNIT = """\
# {path}
#
#   cms daemon unit > {path}
#   systemctl --user daemon-reload
#   systemctl --user enable --now cms.service
#   loginctl enable-linger        # if it is to outlive the last logout
[Unit]
Description=Claude Code sessions (cms)

[Service]
Type=notify
ExecStart={command} daemon run
# Politely first; KillSignal is for what is left after that.
ExecStop={command} daemon stop --grace 10
TimeoutStopSec=60
KillMode=control-group
KillSignal=SIGKILL
WatchdogSec=60
Restart=on-failure
# A cgroup of our own, with the controllers for memory and processes: one below it for each session.
Delegate=yes
# A session that runs out of memory is that session's end and not everybody's.
OOMPolicy=continue
Environment=CMS_IDLE_EXIT=never
{environment}
[Install]
WantedBy=default.target
"""


class Service:
    """The line to the service manager; silent where there is none.

    Attributes:
        every: seconds between two signs of life that the watchdog wants, or None.
    """

    def __init__(self, address: str = "", every: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.every = every

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Service:
        """From the environment, out of which it is taken: no child of ours is the service."""
        address, usec, pid = (environ.pop(name, "") for name in VARIABLES)
        ours = usec.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address, int(usec) / 1_000_000 / 2 if ours and int(usec) else None)

    def tell(self, *lines: str) -> None:
        """Say it; never fails, for nothing here depends on being heard."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            pass

    async def keep_alive(self) -> None:
        """Tell the watchdog, for ever, that the event loop turns."""
        while self._address and self.every is not None:
            self.tell("WATCHDOG=1")
            await trio.sleep(self.every)


def unit(environ: MutableMapping[str, str]) -> str:
    """The text of a systemd user unit for the daemon of this environment's home, with this very Python."""
    return user_unit(_UNIT, "cms", environ)
