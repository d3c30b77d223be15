"""Starting: from a spec to a command that runs in its container, or to nothing at all.

The order is what makes it safe. The shim forks the command's process and it waits; we learn its pid from the
kernel, take pidfds, move it into its cgroup, look at its mounts; only then it gets leave to exec. Until that
moment nothing foreign has run, so whatever fails (we included), everything is ours to end, and it ends by
itself when our end of the control socket closes.

`subprocess.Popen` is called synchronously, on the thread that runs trio. `trio.lowlevel.open_process` would
fork in a worker thread, and a parent-death signal means the death of that thread: ten idle seconds later the
child is killed.
"""

from __future__ import annotations

import errno
import functools
import marshal
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.abc import InspectLoader
from pathlib import Path
from typing import IO, TypeVar

import trio

from cms.containment import _libc, _shim
from cms.containment._cgroup import Delegation, Leaf
from cms.containment._container import Container, Control, Streams, until
from cms.containment._model import Spec
from cms.containment._mounts import NotMounted, Plan, remove_placeholders, verify
from cms.containment._read_end import ReadEnd
from cms.containment._seccomp import seccomp_filter
from cms.containment._shim import Orders
from cms.errors import ContainmentError, WorkDirError

START_WITHIN = 20.0
# The shim travels as compiled code, in the file that also holds its orders: that saves compiling it, and it
# need not be visible inside (a private /tmp may cover where we are installed). The words in front are for
# people who read `ps`; the module that the shim imports is put where the import looks first.
_SHIM = """'cms: keeps one session contained'
import marshal, sys
letter = open(int(sys.argv[1]), "rb")
libc = type(sys)("cms.containment._libc")
sys.modules[libc.__name__] = libc
exec(marshal.load(letter), libc.__dict__)
exec(marshal.load(letter))
orders = letter.read()
letter.close()
main(orders)"""
C = TypeVar("C", bound=Container)
#: From the shim's argv, and a descriptor from which the system call filter can be read, to the whole argv.
Wrap = Callable[[list[str], int], list[str]]


class _Attempt:
    """What has been made so far, so that all of it can be unmade."""

    def __init__(self, spec: Spec, plan: Plan) -> None:
        self.name = spec.label or spec.argv[0]
        self.umask = spec.umask
        self.terminal = spec.terminal is not None
        self.plan = plan
        make_in, make_out = (_socket_in, _socket_out) if spec.sockets else (os.pipe, os.pipe)
        terminal = () if spec.terminal is None else _open_terminal(spec.terminal)
        (stdin, our_stdin), (our_stdout, stdout), (our_stderr, stderr) = make_in(), make_out(), os.pipe()
        self.theirs: tuple[int, ...] = (stdin, stdout, stderr)
        if terminal:
            for fd in self.theirs:
                os.close(fd)
            self.theirs = terminal
        self.streams = Streams(
            trio.lowlevel.FdStream(our_stdin),
            ReadEnd(our_stdout),
            ReadEnd(our_stderr),
        )
        self.complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `spawned` or `undo`)
        self.child: subprocess.Popen[bytes] | None = None
        self.control: Control | None = None
        self.leaf: Leaf | None = None
        self.container: Container | None = None

    def spawn(self, wrap: Wrap, orders: Orders) -> tuple[subprocess.Popen[bytes], Control]:
        """Start the shim, passing on only the descriptors that it is meant to have."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        program = _readable(seccomp_filter())
        try:
            ours.setblocking(False)
            if sys.platform == "linux":
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self.control = Control(ours)
            with tempfile.TemporaryFile() as letter:
                letter.write(_shim_code())
                orders.control = theirs.fileno()
                orders.stdio = self.theirs
                orders.terminal = self.terminal
                orders.supervisor = os.getpid()
                # A folder that is covered shows the mode of the upper layer, which is new.
                orders.modes = tuple(
                    (os.fsencode(step.path), step.mode) for step in self.plan.steps if step.word == "cover"
                )
                orders.leaf = os.fsencode(self.leaf.path) if self.leaf is not None else b""
                letter.write(orders.dump())
                letter.seek(0)
                shim = [os.path.realpath(sys.executable), "-I", "-S", "-c", _SHIM, str(letter.fileno())]
                wrapper = (program,) if orders.mode == "init" else ()
                self.child = subprocess.Popen(
                    wrap(shim, program),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self.complaints,
                    pass_fds=(theirs.fileno(), letter.fileno(), *wrapper, *self.theirs),
                    start_new_session=True,
                    cwd="/",
                    env=_loader_environment(),
                    umask=self.umask,
                )
        finally:
            theirs.close()
            os.close(program)
            for fd in self.theirs:
                os.close(fd)
            self.theirs = ()
        return self.child, self.control

    async def hear(self, until: Callable[[Control], bool], control: Control) -> None:
        """Wait for the shim to get somewhere.

        Raises:
            WorkDirError: it says that the work dir cannot be entered.
            NotMounted: its mounts cannot be made; bwrap says nothing but words.
            ContainmentError: it failed in another way, or ended.
        """
        await control.hear(lambda: until(control) or control.failed is not None)
        if control.failed is not None:
            stage, _, rest = control.failed.partition(" ")
            number, _, text = rest.partition(" ")
            why = os.strerror(int(number)) if number.isdigit() and number != "0" else text
            if stage == "chdir":
                raise WorkDirError(f"{self.name}: cannot start in the work dir: {why}", hint="does it exist?")
            doing = "cannot run the command" if stage == "exec" else f"cannot make the container ({stage})"
            kind = NotMounted if stage == "mounts" else ContainmentError
            raise kind(f"{self.name}: {doing}: {why if stage == 'exec' else text}")
        if not until(control):
            self.complaints.seek(0)
            said = self.complaints.read(4096).decode(errors="replace").strip().splitlines()
            raise NotMounted(
                f"{self.name}: the container did not start: {said[-1] if said else 'no reason given'}"
            )

    async def undo(self) -> None:
        """Nothing is left after this; without leave to exec, shim and child end with the control socket."""
        with trio.CancelScope(shield=True):
            self.complaints.close()
            for fd in self.theirs:
                os.close(fd)
            if self.container is not None:
                await self.container.aclose()
                return
            for stream in (self.streams.stdin, self.streams.stdout, self.streams.stderr):
                await stream.aclose()
            if self.control is not None:
                self.control.close()
            if self.child is not None:
                self.child.kill()
                child = self.child
                await until(lambda: child.poll() is not None)
            if self.leaf is not None:
                self.leaf.remove()
            remove_placeholders(self.plan)


async def launch(
    spec: Spec,
    plan: Plan,
    kind: type[C],
    *,
    mechanism: str,
    wrap: Wrap,
    orders: Orders,
    delegation: Delegation | None,
) -> C:
    """Start the command of `spec` in a container.

    Args:
        kind: which container to make of it.
        wrap: puts what makes the namespaces in front of the shim's command line.
        orders: what the shim is to do.
        delegation: where to make its cgroup, or None.

    Raises:
        ContainmentError: the container could not be made, or the command not be run; nothing is left of it.
        WorkDirError: the command cannot start in its `cwd`.
    """
    try:
        attempt = _Attempt(spec, plan)
    except OSError as error:
        raise ContainmentError(f"{spec.label or spec.argv[0]}: {spec.terminal}: {error.strerror}") from error
    try:
        with trio.move_on_after(START_WITHIN):
            if delegation is not None:
                attempt.leaf = delegation.new_leaf()
                attempt.leaf.limit(memory=spec.max_memory, processes=spec.max_procs)
            child, control = attempt.spawn(wrap, orders)
            await attempt.hear(lambda control: "command" in control.pids, control)
            container = attempt.container = kind(
                spec=spec,
                mechanism=mechanism,
                child=child,
                control=control,
                streams=attempt.streams,
                leaf=attempt.leaf,
                plan=plan,
            )
            _volunteer(container.pid)
            if attempt.leaf is not None:
                # The kernel lets whoever moves a process wait for every core: 9 ms, in which others go on.
                await trio.to_thread.run_sync(attempt.leaf.add, container.pid)
            if lost := verify(plan, control.pids["init"]):
                raise ContainmentError(f"{attempt.name}: {lost[0].path}: {lost[0].why}")
            control.send("go")
            await attempt.hear(lambda control: control.running, control)
            attempt.complaints.close()
            return container
        raise ContainmentError(f"{attempt.name}: the container did not start within {START_WITHIN:g} s")
    except OSError as error:
        await attempt.undo()
        raise ContainmentError(f"{attempt.name}: cannot make the container: {error}") from error
    except BaseException:
        await attempt.undo()
        raise


def _volunteer(pid: int) -> None:
    """When memory runs out the kernel is to choose the agent, not its supervisor."""
    try:
        with Path(f"/proc/{pid}/oom_score_adj").open("r+") as file:
            now = int(file.read())
            file.seek(0)
            file.write(str(min(1000, now + 300)))
    except (OSError, ValueError):
        pass  # best effort; nothing else depends on it


def _readable(data: bytes) -> int:
    """A descriptor from which that (a page at most) can be read once."""
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return reader


def _open_terminal(path: Path) -> tuple[int, int, int]:
    """The same terminal three times. It is not ours, whoever's controlling terminal it becomes.

    Raises:
        OSError: it is no terminal of this user.
    """
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not os.isatty(fd) or os.fstat(fd).st_uid != os.geteuid():
        os.close(fd)
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
    os.set_blocking(fd, True)
    return fd, os.dup(fd), os.dup(fd)


def _socket_in() -> tuple[int, int]:
    """Like a pipe, but one that nobody can open through /proc: a line in it is from who holds it."""
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    # One way only. What lies unread in a socket when it is closed is an error for the other side.
    writer.shutdown(socket.SHUT_RD)
    return reader.detach(), writer.detach()


def _socket_out() -> tuple[int, int]:
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    reader.shutdown(socket.SHUT_WR)
    return reader.detach(), writer.detach()


@functools.cache
def _shim_code() -> bytes:
    found = b""
    for module in (_libc, _shim):
        loader = module.__loader__
        assert isinstance(loader, InspectLoader)  # noqa: S101 (for the type checker; loaders of source are)
        found += marshal.dumps(loader.get_code(module.__name__))
    return found


def orders_for(mode: str, spec: Spec) -> Orders:
    """Orders to run that command; the mechanism adds what is its own."""
    return Orders(
        mode,
        [os.fsencode(word) for word in spec.argv],
        {os.fsencode(name): os.fsencode(value) for name, value in spec.env.items()},
        os.fsencode(spec.cwd),
        nofile=spec.open_files,
        seccomp=b"" if mode == "init" else seccomp_filter(),
    )


def _loader_environment() -> dict[str, str]:
    """What the shim's interpreter may need to be loaded; never the agent's environment, never the rest of
    ours.
    """
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
