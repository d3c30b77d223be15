"""What every mechanism is: a name, its promises, and a way to start a command."""

from __future__ import annotations

import abc
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec
import trio

from cms.containment._cgroup import Delegation
from cms.containment._container import Container
from cms.containment._model import Guarantee, Guarantees, Layer, Level, Spec
from cms.containment._mounts import NotMounted, below, mounts_of
from cms.containment._seccomp import seccomp_filter
from cms.disk import ask_disk
from cms.errors import ContainmentError

STRONG = Guarantee("strong")


def cap(controller: str, delegation: Delegation | None) -> Guarantee:
    """What a cap is worth with a cgroup controller, and without."""
    if delegation is not None and controller in delegation.controllers:
        return STRONG
    return Guarantee("weak", f"checked twice a second; our cgroup has no {controller} controller")


def no_tampering(*, walls: bool) -> Guarantee:
    """What the system call filter is worth, with a /proc of the tree's own and without."""
    if not seccomp_filter():
        return Guarantee("none", f"no system call filter for {os.uname().machine}")
    return STRONG if walls else Guarantee("weak", "/proc/PID/mem can be written where the kernel lets it")


class Mechanism(abc.ABC):
    """A way to hold a process tree on this machine. One object serves any number of containers.

    Attributes:
        name: short, for people and receipts.
        guarantees: what it promises here, per thing that can be asked.
    """

    name: str
    guarantees: Guarantees

    def __init__(self, name: str, guarantees: Guarantees) -> None:
        self.name = name
        self.guarantees = guarantees
        self._coverable: dict[Path, bool] = {}
        self._layers: dict[tuple[int, int], str] = {}
        self._trying = trio.Lock()

    @property
    def level(self) -> Level:
        """Where that stands among all machines."""
        return self.guarantees.level

    async def start(self, spec: Spec) -> Container:
        """Start a command. Either it runs in its container when this returns, or nothing is left.

        Raises:
            ContainmentError: the container could not be made, or the command not be run.
            DiskTimeout: a folder that it is to hold does not answer.
            WorkDirError: the command cannot start in its `cwd`.
        """
        untried = await self._untried(spec)
        try:
            container = await self.start_without_fallback(await self._without_uncoverable(spec))
        except NotMounted:
            # One cannot be a copy; or others went on between the plan and its mounts: a folder is gone.
            await self._try_to_cover(untried)
            return await self.start_without_fallback(await self._without_uncoverable(spec))
        self._coverable.update(dict.fromkeys(untried, True))
        return container

    @abc.abstractmethod
    async def start_without_fallback(self, spec: Spec) -> Container:
        """The same, but a folder that cannot be covered is an error."""

    async def _without_uncoverable(self, spec: Spec) -> Spec:
        """Folders that cannot be copy-on-write here are read-only, and what cannot do without is writable."""
        covered = tuple(folder for folder in spec.covered if self._coverable.get(folder, True))
        if covered == spec.covered:
            return spec
        caches = await ask_disk(
            lambda: [path for path in spec.caches if path.exists()], f"the caches of {spec.label or spec.cwd}"
        )
        return msgspec.structs.replace(
            spec,
            covered=covered,
            readable=(*spec.readable, *(folder for folder in spec.covered if folder not in covered)),
            writable=(*spec.writable, *caches),
        )

    async def _untried(self, spec: Spec) -> list[Path]:
        """The folders that are to be copy-on-write, and of which it is not known whether they can be."""
        asked = [folder for folder in spec.covered if folder not in self._coverable]
        if not self.guarantees.copy_on_write.strong:
            self._coverable.update(dict.fromkeys(asked, False))
            return []
        if not asked:
            return []
        return await ask_disk(
            lambda: [folder for folder in asked if folder.is_dir()], "the folders that are to be copies"
        )

    async def _try_to_cover(self, folders: list[Path]) -> None:
        """Found by doing it, once: overlayfs refuses some file systems, such as an overlay upon an overlay.

        All together, which is quick; only if that fails each for itself.
        """
        if not folders:
            return
        trial = Spec(
            argv=("/bin/sh", "-c", ":"),
            env={"PATH": os.defpath},
            cwd=Path("/"),
            covered=tuple(folders),
            sandbox=True,
            label="copy-on-write",
        )
        try:
            await (await self.start_without_fallback(trial)).aclose()
            self._coverable.update(dict.fromkeys(folders, True))
        except ContainmentError:
            if len(folders) == 1:
                self._coverable[folders[0]] = False
            else:
                for folder in folders:
                    await self._try_to_cover([folder])

    async def why_no_layer(self, folder: Path, place: Path) -> str:
        """Why this machine cannot keep copies of that folder in that place; "" if it can.

        Found by doing it, once for each pair of file systems; what is mounted below is looked at each time.

        Args:
            place: a folder of ours.

        Raises:
            DiskTimeout: the folders do not answer.
        """
        if not self.guarantees.copy_on_write.strong:
            return self.guarantees.copy_on_write.why or "this machine has no containers with overlays"

        def look() -> tuple[tuple[int, int], str]:
            real = Path(os.path.realpath(folder))
            mount = below(real, mounts_of(os.getpid()))
            devices = real.stat().st_dev, place.stat().st_dev
            return devices, "" if mount is None else f"something is mounted below it, at {mount}"

        try:
            devices, why = await ask_disk(look, f"the folder {folder}")
            if why:
                return why
            async with self._trying:
                if devices not in self._layers:
                    self._layers[devices] = await self._try_layer(folder, place)
        except OSError as error:
            return f"{error.filename or folder}: {error.strerror}"
        return self._layers[devices]

    async def _try_layer(self, folder: Path, place: Path) -> str:
        with tempfile.TemporaryDirectory(prefix="trial-", dir=place) as own:
            layer = Layer(folder, Path(own, "upper"), Path(own, "work"))
            for made in (layer.upper, layer.work):
                if made is not None:
                    made.mkdir()
            trial = Spec(
                argv=("/bin/sh", "-c", "mkdir .cms-trial && rmdir .cms-trial"),
                env={"PATH": os.defpath},
                cwd=folder,
                layers=(layer,),
                sandbox=True,
                label="a layer",
            )
            try:
                async with await self.start_without_fallback(trial) as container:
                    status = await container.wait()
            except ContainmentError as error:
                return error.message
            finally:
                with suppress(OSError):  # what the kernel leaves in there has no mode
                    os.chmod(Path(own, "work", "work"), 0o700)  # noqa: PTH101 (Path would say it is async's)
        return "" if status == 0 else "nothing can be written there"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} level {self.level.value}>"
