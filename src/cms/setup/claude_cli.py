"""Claude Code's own commands for its configuration, and reading what they say."""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from cms.errors import MachineError
from cms.session.model import Record

Scope = Literal["user", "project"]
Health = Literal["connected", "pending approval", "failed", "absent"]

NAME = "cms"
TIMEOUT = 60.0  # seconds for one command; a health check starts our server, which takes about one


class Entry(Record, frozen=True):
    """How Claude Code starts the server, as it writes it down."""

    command: str
    args: tuple[str, ...]
    env: Mapping[str, str] = {}

    def same_as(self, found: object) -> bool:
        """Whether what stands in a configuration file is this."""
        if not isinstance(found, dict):
            return False
        return (
            found.get("type", "stdio") == "stdio"
            and found.get("command") == self.command
            and list(found.get("args") or []) == list(self.args)
            and dict(found.get("env") or {}) == dict(self.env)
        )


def is_ours(found: object) -> bool:
    """Whether an entry starts our server, of whichever installation; not somebody else's of the same name."""
    if not isinstance(found, dict):
        return False
    words = [str(found.get("command", "")), *(str(word) for word in found.get("args") or ())]
    return words[-1] == "mcp" and (Path(words[0]).name == "cms" or words[-3:] == ["-m", "cms", "mcp"])


class Claude:
    """The binary, run in one folder with one environment.

    Attributes:
        config_folder: `~/.claude`, or what CLAUDE_CONFIG_DIR names.
        user_file: where servers of the user's scope are written down.
        project_file: where those of the project are.
    """

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], folder: Path) -> None:
        self._argv = tuple(argv)
        self._environ = {
            **{key: value for key, value in environ.items() if key != "CLAUDECODE"},
            "DISABLE_AUTOUPDATER": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }
        home = Path(environ.get("HOME") or Path.home())
        named = environ.get("CLAUDE_CONFIG_DIR", "")
        self.folder = folder
        self.config_folder = Path(named) if named else home / ".claude"
        self.user_file = (Path(named) if named else home) / ".claude.json"
        self.project_file = folder / ".mcp.json"

    def file_of(self, scope: Scope) -> Path:
        return self.user_file if scope == "user" else self.project_file

    def add_words(self, scope: Scope, entry: Entry) -> list[str]:
        env = [word for key, value in entry.env.items() for word in ("-e", f"{key}={value}")]
        return ["mcp", "add", "--scope", scope, NAME, *env, "--", entry.command, *entry.args]

    def remove_words(self, scope: Scope) -> list[str]:
        return ["mcp", "remove", "--scope", scope, NAME]

    def shown(self, words: Sequence[str]) -> str:
        """A command as a person would type it."""
        return shlex.join(["claude", *words])

    def do(self, words: Sequence[str]) -> None:
        """Run a command that changes something.

        Raises:
            MachineError: it failed; its words are in the message.
        """
        code, said = self._run(words)
        if code != 0:
            raise MachineError(
                f"`{self.shown(words)}` failed: {_last_line(said) or f'exit status {code}'}",
                hint="it may be too old for `claude mcp add`; `claude update` updates it",
            )

    def health(self) -> tuple[Health, str, Scope | None]:
        """Whether Claude Code, as it is configured here, connects to the server; and its own words.

        The scope is that of the entry it speaks of: where there are several of the name, it is one of them.
        """
        code, said = self._run(["mcp", "get", NAME])
        scope: Scope | None = None
        if found := re.search(r"^\s*Scope:\s*(User|Project)\b", said, re.MULTILINE):
            scope = "user" if found.group(1) == "User" else "project"
        return *_health(code, said), scope

    def health_apart(self, entry: Entry) -> tuple[Health, str]:
        """The same of an entry alone, in a configuration folder that is thrown away.

        For a project's servers, which Claude Code connects to only once a person has approved them.
        """
        with _scratch() as folder:
            apart = {"CLAUDE_CONFIG_DIR": str(folder)}
            code, said = self._run(self.add_words("user", entry), apart, folder)
            if code != 0:
                return "failed", said
            return _health(*self._run(["mcp", "get", NAME], apart, folder))

    def _run(
        self, words: Sequence[str], env: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> tuple[int, str]:
        # What it logs of a health check would be left in the user's cache, and other things in /tmp.
        with _scratch() as scratch:
            apart = {"XDG_CACHE_HOME": str(scratch), "CLAUDE_CODE_TMPDIR": str(scratch)}
            try:
                done = subprocess.run(
                    [*self._argv, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd=folder or self.folder,
                    env={**self._environ, **apart, **(env or {})},
                    timeout=TIMEOUT,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise MachineError(f"`{self.shown(words)}` did not finish within {TIMEOUT:g} s") from None
            except OSError as error:
                raise MachineError(f"cannot run {self._argv[0]}: {error.strerror}") from error
        return done.returncode, done.stdout.decode(errors="replace")


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cms-setup-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _health(code: int, said: str) -> tuple[Health, str]:
    found = re.search(r"^\s*Status:\s*(.*)$", said, re.MULTILINE)
    status = found.group(1) if found else ""
    if "Connected" in status:
        return "connected", status
    if "Pending approval" in status:
        return "pending approval", status
    if code != 0 and not status:
        return "absent", _last_line(said)
    why = re.search(r"^\s*Issue:\s*(.*)$", said, re.MULTILINE)
    return "failed", why.group(1) if why else status or _last_line(said)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
