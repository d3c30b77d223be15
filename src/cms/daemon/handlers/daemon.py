"""The daemon itself: who it is, how it is, its end."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from cms._version import __version__
from cms.config import Settings, find_claude
from cms.daemon.call import Handler, Host, bind, quick
from cms.daemon.metrics import gather
from cms.errors import CmsError
from cms.rpc.daemon import (
    DAEMON_STATUS,
    DAEMON_STOP,
    HELLO,
    DaemonStatus,
    DaemonStopParams,
    Hello,
    HelloResult,
)
from cms.rpc.metrics import DAEMON_METRICS, Metrics
from cms.rpc.verbs import Nothing
from cms.rpc.wire import PROTOCOL

if TYPE_CHECKING:
    from cms.fleet.supervisor import Supervisor


class DaemonHandlers:
    """The verbs of the daemon, bound to its server and its supervisor."""

    def __init__(self, supervisor: Supervisor, host: Host, settings: Settings, containment: str) -> None:
        self._supervisor = supervisor
        self._host = host
        self._settings = settings
        self._containment = containment
        self._started = time.monotonic()
        self.all: tuple[Handler, ...] = (
            bind(HELLO, quick(self.hello)),
            bind(DAEMON_STATUS, quick(self.status)),
            bind(DAEMON_METRICS, quick(self.metrics)),
            bind(DAEMON_STOP, quick(self.stop)),
        )

    async def hello(self, _params: Hello) -> HelloResult:
        return HelloResult(
            __version__, PROTOCOL, os.getpid(), str(self._settings.home), stopping=self._host.stopping
        )

    async def status(self, _params: Nothing) -> DaemonStatus:
        try:
            claude = " ".join(find_claude(self._settings))
        except CmsError as error:
            claude = error.message
        return DaemonStatus(
            pid=os.getpid(),
            version=__version__,
            home=str(self._settings.home),
            uptime=time.monotonic() - self._started,
            live=self._supervisor.live_count(),
            sessions=(await self._supervisor.count())[0],
            clients=self._host.clients,
            containment=self._containment,
            claude=claude,
            idle_exit=self._settings.idle_exit,
        )

    async def metrics(self, _params: Nothing) -> Metrics:
        return Metrics(await gather(self._supervisor, self._host))

    async def stop(self, params: DaemonStopParams) -> Nothing:
        await self._host.stop(params.grace)
        return Nothing()
