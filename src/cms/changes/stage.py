"""The stage of a transaction: a folder of ours in the target, where what comes waits and what was is kept.

It is in the target, because a file can be moved within one file system only. See `transaction.py`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Final, Literal

import msgspec

from cms.changes.content import Store, copy_file, sync_file_system
from cms.changes.model import Node
from cms.changes.planning import Step
from cms.changes.tree import Tree, names_in

#: The stage's name begins with this.
PREFIX: Final = ".cms-apply-"
#: Above so many files the whole file system is synced, not each.
MANY: Final = 300
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: A file system without hard links, or somebody else's file.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV})


class Deed(msgspec.Struct, frozen=True):
    """One step as the journal has it.

    Attributes:
        number: names its files in the stage: `n0` comes, `o0` was.
        inode: of what comes; 0: nothing does.
        size: of what comes, with `mtime` (ns): if these differ later, somebody has written to it.
        linked: what was there has a second name in the stage.
        opened: a folder that gets the permission to write in it, meanwhile.
    """

    step: Step
    number: int
    inode: int = 0
    size: int = 0
    mtime: int = 0
    linked: bool = False
    opened: bool = False

    @property
    def new(self) -> str:
        """Under which name it is in the stage, what comes."""
        return f"n{self.number}"

    @property
    def old(self) -> str:
        """Under which name it is in the stage, what was."""
        return f"o{self.number}"

    @property
    def taken_first(self) -> bool:
        """Whether what is there has to go before something else can come, if anything does."""
        return self.step.now is not None and not self.step.mode_only and not self.linked


class Journal(msgspec.Struct, frozen=True):
    """What is about to be done.

    Attributes:
        deeds: empty while the stage is being filled: nothing has been done then.
    """

    token: str
    kind: Literal["apply", "revert"]
    folder: str
    at: float
    deeds: tuple[Deed, ...] = ()

    @property
    def stage(self) -> str:
        return PREFIX + self.token


class Overtaken(Exception):
    """Somebody has changed a path since it was looked at."""

    def __init__(self, path: bytes) -> None:
        super().__init__()
        self.path = path


class Failed(Exception):
    """A path could not be changed."""

    def __init__(self, path: bytes, error: OSError) -> None:
        super().__init__()
        self.path = path
        self.error = error


class Stage:
    """The folder, open."""

    def __init__(self, tree: Tree, name: str, *, many: bool) -> None:
        self.many = many
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=tree.fd)
        self.fd = os.open(name, _FOLDER, dir_fd=tree.fd)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def holds(self, name: str, inode: int) -> bool:
        """Whether a name in it is of this inode."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_ino == inode
        except FileNotFoundError:
            return False

    def make(self, name: str, node: Node, store: Store, like: os.stat_result | None = None) -> None:
        """Make something in it. A folder stays open to us: its last permissions come at the end.

        Args:
            like: of whom it is to be, if we may give it away.
        """
        if node.type == "dir":
            os.mkdir(name, 0o700, dir_fd=self.fd)
            self._give(name, like)
            fd = os.open(name, _FOLDER, dir_fd=self.fd)
            try:
                os.fchmod(fd, node.mode | 0o700)
            finally:
                os.close(fd)
        elif node.type == "link":
            os.symlink(node.target, os.fsencode(name), dir_fd=self.fd)
            self._give(name, like)
        else:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=self.fd)
            try:
                with store.path(node.content).open("rb") as source:
                    copy_file(source.fileno(), fd, lambda _more: None)
                self._give(name, like)
                os.fchmod(fd, node.mode)
                if not self.many:
                    os.fsync(fd)
            finally:
                os.close(fd)

    def _give(self, name: str, like: os.stat_result | None) -> None:
        if like is None:
            return
        group = like.st_gid if os.geteuid() == 0 or not stat.S_ISDIR(like.st_mode) else -1
        if stat.S_ISDIR(like.st_mode) and like.st_mode & stat.S_ISGID:
            group = like.st_gid
        owner = like.st_uid if os.geteuid() == 0 else -1
        with contextlib.suppress(PermissionError):
            os.chown(name, owner, group, dir_fd=self.fd, follow_symlinks=False)

    def drop(self, name: str) -> None:
        """Remove something from it."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_mode):
                fd = os.open(name, _FOLDER | getattr(os, "O_PATH", 0), dir_fd=self.fd)
                try:
                    _chmod_open(fd, 0o700)
                finally:
                    os.close(fd)
                shutil.rmtree(name, dir_fd=self.fd)
            else:
                os.unlink(name, dir_fd=self.fd)

    def sync(self) -> None:
        """All of it is on the disk when this returns."""
        if self.many and not sync_file_system(self.fd):
            for name in names_in(self.fd):
                with contextlib.suppress(OSError):
                    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self.fd)
                    try:
                        os.fsync(fd)
                    finally:
                        os.close(fd)
        os.fsync(self.fd)


def drop_stage(tree: Tree, name: str) -> None:
    """Remove a stage, and what is in it, if it is there."""
    try:
        fd = os.open(name, _FOLDER, dir_fd=tree.fd)
    except FileNotFoundError:
        return
    os.close(fd)
    with Stage(tree, name, many=False) as stage:
        for each in names_in(stage.fd):
            stage.drop(os.fsdecode(each))
    os.rmdir(name, dir_fd=tree.fd)


def prepare(stage: Stage, tree: Tree, store: Store, number: int, step: Step) -> Deed:
    """Make in the stage what one step needs.

    Raises:
        Overtaken: what was there is gone.
        Failed: it does not go.
    """
    deed = Deed(step, number)
    try:
        if step.then is None or step.mode_only:
            return deed
        stage.make(deed.new, step.then, store, _owner(tree, step.path))
        made = os.stat(deed.new, dir_fd=stage.fd, follow_symlinks=False)
        linked = _link_old(stage, tree, deed)
        if linked and step.then.type == "file" and step.now is not None and step.now.type == "file":
            _copy_attributes(stage, deed)
        return Deed(step, number, made.st_ino, made.st_size, made.st_mtime_ns, linked)
    except OSError as error:
        raise Failed(step.path, error) from error


def _owner(tree: Tree, path: bytes) -> os.stat_result:
    """What was there, or the nearest folder that is."""
    while True:
        found = tree.look(path)
        if found is not None or not path:
            return found or os.fstat(tree.fd)
        path = path.rpartition(b"/")[0]


def _link_old(stage: Stage, tree: Tree, deed: Deed) -> bool:
    """A second name for a file that another is to replace. False: it has to be moved away first."""
    now, then = deed.step.now, deed.step.then
    if now is None or now.type == "dir" or then is None or then.type == "dir":
        return False
    above, name = tree.place(deed.step.path)
    try:
        os.link(name, deed.old, src_dir_fd=above, dst_dir_fd=stage.fd, follow_symlinks=False)
    except FileNotFoundError:
        raise Overtaken(deed.step.path) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def _copy_attributes(stage: Stage, deed: Deed) -> None:
    """Extended attributes, access lists among them, as far as we may."""
    if not hasattr(os, "listxattr"):
        return
    with contextlib.suppress(OSError):
        old = os.open(deed.old, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=stage.fd)
        try:
            names = os.listxattr(old)
            if names:
                new = os.open(deed.new, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=stage.fd)
                try:
                    for name in names:
                        with contextlib.suppress(OSError):
                            os.setxattr(new, name, os.getxattr(old, name))
                finally:
                    os.close(new)
        finally:
            os.close(old)


def is_as_looked_at(step: Step, found: os.stat_result) -> bool:
    """Whether it is still what the plan saw. Of a folder only that it is the same one."""
    if (found.st_dev, found.st_ino) != (step.device, step.inode):
        return False
    return stat.S_ISDIR(found.st_mode) or (found.st_size, found.st_mtime_ns) == (step.size, step.mtime)


def put_where_nothing_is(stage: Stage, deed: Deed, above: int, name: bytes) -> None:
    """Move it out of the stage; what came into being there meanwhile is not overwritten.

    Raises:
        Overtaken: there is something.
    """
    if deed.step.then is not None and deed.step.then.type != "dir":
        try:
            os.link(deed.new, name, src_dir_fd=stage.fd, dst_dir_fd=above, follow_symlinks=False)
            os.unlink(deed.new, dir_fd=stage.fd)
            return
        except FileExistsError:
            raise Overtaken(deed.step.path) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
    try:
        os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(deed.new, name, src_dir_fd=stage.fd, dst_dir_fd=above)
    else:
        raise Overtaken(deed.step.path)


def set_mode(tree: Tree, path: bytes, mode: int, inode: int) -> None:
    """Change permissions, of this very file or folder, and never of what a link leads to.

    Raises:
        Overtaken: there is another one.
        OSError: it does not go.
    """
    if not path:
        os.fchmod(tree.fd, mode)
        return
    above, name = tree.place(path)
    fd = os.open(name, getattr(os, "O_PATH", os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        found = os.fstat(fd)
        if found.st_ino != inode or stat.S_ISLNK(found.st_mode):
            raise Overtaken(path)
        _chmod_open(fd, mode)
    finally:
        os.close(fd)


def _chmod_open(fd: int, mode: int) -> None:
    """fchmod, for a descriptor that may be O_PATH."""
    if hasattr(os, "O_PATH"):
        Path(f"/proc/self/fd/{fd}").chmod(mode)
    else:
        os.fchmod(fd, mode)
