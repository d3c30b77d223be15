"""What the isolated tasks of a batch changed, a patch each, in a folder of the user's (`--patches`).

Each is written when its task is over, whole or not at all; when a batch goes on after a crash, what is
missing is added. The folder may be one in which agents work: no link is followed there (`cms.disk`), and a
file that is there already and is no patch is left alone. What goes wrong is told (`warn`) and forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from cms import changes
from cms.batch.model import BatchRecord, Task, TaskResult
from cms.disk import ask_disk, replace_own
from cms.errors import CmsError
from cms.store import batch_tasks
from cms.store.store import Store

_PAGE: Final = 500
#: Seconds for one patch, which may be many megabytes.
_PATIENCE: Final = 300.0


class Patches:
    """Those of one batch on their way to their folder."""

    def __init__(self, store: Store, batch: BatchRecord, warn: Callable[[str], None]) -> None:
        self._store = store
        self._batch_id = batch.id
        self._folder = Path(batch.options.patches) if batch.options.patches else None
        self._work_dir = Path(batch.options.work_dir)
        self._warn = warn
        self._written = 0  # place of the last task whose patch is there
        self._writing = False

    async def write(self) -> None:
        """Add those of all tasks that have ended since the last time."""
        if self._folder is None or self._writing:
            return  # whoever is at it takes along what came meanwhile
        self._writing = True
        try:
            while tasks := await self._store.read(batch_tasks.ended, self._batch_id, self._written, _PAGE):
                for task in tasks:
                    await self._add(task, self._folder)
                    self._written = task.order
        finally:
            self._writing = False

    async def _add(self, task: Task, folder: Path) -> None:
        result = task.result
        if result is None or not (result.patch or (result.change is not None and result.change.files)):
            return
        path = folder / f"{task.name.replace('/', '_')}.patch"
        if result.place is not None and not result.patch:
            self._warn(f"--patches: what {task.name} changed is on {result.place.host}")
            return
        try:
            await ask_disk(lambda: self._write(path, task, result), str(path), seconds=_PATIENCE)
        except (CmsError, OSError) as error:
            self._warn(f"--patches: {path}: {error.strerror if isinstance(error, OSError) else error}")

    def _write(self, path: Path, task: Task, result: TaskResult) -> None:
        """Touches the disk.

        Raises:
            ChangeNotFound: the change is not kept any more.
            OSError: it cannot be written, or something else has its name.
        """
        if path.is_file() and path.lstat().st_mtime >= (task.ended or 0.0):
            return  # of this task, before a crash
        if result.patch:  # of its checkout on a node
            with Path(result.patch).open("rb") as lines:
                replace_own(path, lines, self._work_dir, _is_patch)
            return
        if result.change is not None:
            replace_own(path, changes.patch(Path(result.change.place)), self._work_dir, _is_patch)


def _is_patch(beginning: bytes) -> bool:
    return not beginning or beginning.startswith((b"diff --git ", b"# "))
