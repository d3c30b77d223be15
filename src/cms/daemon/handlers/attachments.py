"""Files that go with messages: kept until a message has them."""

from __future__ import annotations

from functools import partial

import trio

from cms.config import Settings
from cms.daemon.call import Handler, bind, quick
from cms.rpc.attachments import ATTACHMENTS_KEEP, KeepParams, KeepResult
from cms.store.attachments import keep


class AttachmentHandlers:
    """The verbs of attachments."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.all: tuple[Handler, ...] = (bind(ATTACHMENTS_KEEP, quick(self.keep)),)

    async def keep(self, params: KeepParams) -> KeepResult:
        work = partial(keep, self._settings.attachments, params.data, params.label)
        return KeepResult(await trio.to_thread.run_sync(work))
