"""How a session's process is started: what it reads, its command line, its walls, its login."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from cms.config import Settings, find_claude
from cms.containment import Mechanism
from cms.disk import ask_disk
from cms.errors import MachineError
from cms.live.argv import Command, build_command, build_environment
from cms.live.configuration import Configuration, prepare_configuration
from cms.live.context import SessionContext
from cms.live.conversation_meter import FIGURES, status_command
from cms.live.login import Login, copy_login
from cms.live.process import AgentProcess
from cms.live.workspace import ENVIRON, LentView, Workspace
from cms.protection.path_guard import PathGuard
from cms.protection.scratch import write_files
from cms.store.rawlog import RawLog


class Launcher:
    """Starts the one process of a runner.

    Args:
        workspace: the view of its folder that it works in, where that is not the folder itself.
        resume: the conversation that the process goes on with; "": a new one.
        fork: it branches off from that one.
        terminal: where a person is to have it, in claude's own interface.

    Attributes:
        login: what it logs in with, where that is a copy; kept up by a task (`Login.keep`).
    """

    def __init__(
        self,
        context: SessionContext,
        path_guard: PathGuard,
        *,
        settings: Settings,
        mechanism: Mechanism,
        workspace: Workspace | LentView | None,
        resume: str,
        fork: bool,
        terminal: Path | None = None,
    ) -> None:
        self._context = context
        self._path_guard = path_guard
        self._settings = settings
        self._mechanism = mechanism
        self._workspace = workspace
        self._resume = resume
        self._fork = fork
        self._terminal = terminal
        self.login: Login | None = None

    async def configure(self, folder: Path) -> Configuration:
        """Make in `folder` what claude is to read in the place of what the work dir configures."""
        options, now = self._context.record.options, self._context.now()
        return await ask_disk(
            lambda: prepare_configuration(options, self._settings, folder, now=now),
            f"what {options.work_dir} configures",
        )

    async def start(
        self,
        configuration: Configuration,
        scratch: Path,
        *,
        raw: RawLog,
        child_socket: Path | None,
        ended: Callable[[], bool],
    ) -> AgentProcess | None:
        """The process, or None if the session's end has begun before it.

        Args:
            child_socket: the folder with the one socket of ours that it may reach.
        """
        record, options = self._context.record, self._context.record.options
        claude = find_claude(self._settings)
        paths = await self._path_guard.prepare(
            claude, walls=self._mechanism.guarantees.protected_paths.strong
        )
        self._path_guard.left_out = configuration.left_out
        if paths.places is not None and self._mechanism.guarantees.copy_on_write.strong:
            self.login = await copy_login(
                self._mechanism, self._settings, claude, configuration.folder / "login"
            )
        if ended():
            return None
        if self._workspace is not None:
            paths = self._path_guard.isolate(self._workspace.layers, self._workspace.told)
            try:
                await ask_disk(self._workspace.note_used, "cms's own folder")
            except OSError as error:
                raise MachineError(f"its view cannot be noted: {error.strerror}") from error
        if self._terminal is not None:
            figures = scratch / FIGURES
            configuration = configuration.with_status_line(
                lambda before: status_command(figures, before, record.name)
            )
        command = self._command(claude, configuration, child_socket)
        await ask_disk(lambda: write_files(command.files), "what a session is started with")
        return await AgentProcess.start(
            self._mechanism,
            self._settings,
            argv=command.argv,
            env=build_environment(
                self._settings.environ,
                inside=record.id,
                depth=record.depth,
                child_socket="" if child_socket is None else str(child_socket),
                scratch=str(scratch),
                deny=options.env_deny,
            )
            | configuration.environ
            | ({} if self._workspace is None else ENVIRON)
            | ({} if self._context.trace is None else self._context.trace.place.environ),
            work_dir=options.work_dir,
            child_socket=child_socket,
            scratch=scratch,
            configuration=configuration.folder,
            login=self.login,
            terminal=self._terminal,
            paths=paths,
            log=raw,
            label=record.name,
            now=self._context.now,
            max_memory=options.limits.max_memory,
            max_procs=options.limits.max_procs,
        )

    def _command(
        self, claude: tuple[str, ...], configuration: Configuration, child_socket: Path | None
    ) -> Command:
        record, limits, state = self._context.record, self._context.record.options.limits, self._context.state
        return build_command(
            claude,
            configuration.take_place(record.options),
            folder=configuration.folder,
            session_id=record.id,
            resume=self._resume,
            fork=self._fork,
            # The second lock counts from the start of the process.
            budget=None if limits.max_cost is None else max(limits.max_cost - state.ledger.spent, 0.0001),
            turns=None if limits.max_turns is None else max(limits.max_turns - state.turns, 1),
            server=(sys.executable, "-P", "-m", "cms", "mcp") if child_socket is not None else (),
            config_root=str(configuration.root),
            unreadable=self._path_guard.unreadable,
            by_hand=self._terminal is not None,
        )
