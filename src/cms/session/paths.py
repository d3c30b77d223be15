"""Protected paths: what an agent must not write (or read), however the path is spelled.

A path is judged in two forms: as written (made absolute against the work dir, `.` and `..` taken out) and
as the file system resolves it (links followed); if either is protected, it is. Comparison folds case and
Unicode forms, because on some file systems `.ENV` and `.env` are one file; refusing too much is harmless.

Patterns: `~` is the user's home; a pattern that begins with `/` is anchored, any other matches at every depth;
`*` and `?` stay within one name, `**` crosses. A pattern that matches a folder covers all below it.

This is the first of three nets. It sees the file tools' own paths, before anything is written. What a shell
command writes it cannot see: that is for the container (the file system itself refuses) and for the tripwire.
Links are resolved by a function that the caller gives, since this module knows no file system.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable

#: What nobody's task needs to write. Each line is a kind; `--allow-write` takes patterns out.
DEFAULT_PROTECTED: tuple[str, ...] = (
    # credentials
    "~/.ssh", "~/.gnupg", "~/.aws", "~/.azure", "~/.kube", "~/.docker", "~/.config/gcloud", "~/.config/gh",
    "~/.netrc", "~/.npmrc", "~/.pypirc", "~/.git-credentials", "~/.password-store",
    ".env", ".env.*", "id_rsa", "id_ed25519", "id_ecdsa",
    # shell start-up and what else runs by itself at login
    "~/.bashrc", "~/.bash_profile", "~/.bash_login", "~/.bash_logout", "~/.bash_aliases", "~/.profile",
    "~/.zshrc", "~/.zshenv", "~/.zprofile", "~/.zlogin", "~/.config/fish", "~/.config/autostart",
    "~/.config/systemd", "~/Library/LaunchAgents",
    # git internals that execute
    "~/.gitconfig", "~/.config/git", ".git/hooks", ".git/config", ".git/config.worktree",
    ".git/info/attributes", ".git/modules/**/config", ".git/modules/**/hooks",
    # Claude's own settings: they can run commands and grant permissions
    "~/.claude", "~/.claude.json", ".claude/settings.json", ".claude/settings.local.json", ".claude/hooks",
    ".mcp.json",
    # the system
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/opt", "/proc", "/run", "/sbin", "/sys",
    "/usr", "/var/lib", "/var/spool", "/System", "/Library",
)  # fmt: skip

#: Look like the above but are templates that people commit.
DEFAULT_EXCEPTIONS: tuple[str, ...] = (
    ".env.example", ".env.sample", ".env.template", ".env.dist", ".env.defaults",
    "/dev/null", "/dev/stdout", "/dev/stderr",
)  # fmt: skip

Resolve = Callable[[str], str]


def fold_name(path: str) -> str:
    """The form in which paths are compared: compatibility-composed and case-folded."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())


def _segment(pattern: str) -> str:
    parts = []
    for char in pattern:
        if char == "*":
            parts.append("[^/]*")
        elif char == "?":
            parts.append("[^/]")
        else:
            parts.append(re.escape(char))
    return "".join(parts)


def compile_pattern(pattern: str, home: str) -> re.Pattern[str]:
    """A pattern as an expression that fully matches a folded absolute path, or one below it."""
    if pattern == "~" or pattern.startswith("~/"):
        pattern = home + pattern[1:]
    anchored = pattern.startswith("/")
    segments = [s for s in fold_name(pattern).split("/") if s not in ("", ".")]
    expression = "" if anchored else "(?:/[^/]+)*"
    for segment in segments:
        expression += "(?:/[^/]+)*" if segment == "**" else "/" + _segment(segment)
    return re.compile(expression + "(?:/.*)?", re.DOTALL)


class PathRules:
    """Which paths are protected, for one session.

    Args:
        work_dir: absolute; relative paths are taken from here.
        home: the user's home folder, for `~`.
        protect: patterns added to the defaults.
        allow: patterns taken out again; they win.
        resolve: follows links; a path that cannot be resolved must raise OSError.
    """

    def __init__(
        self,
        *,
        work_dir: str,
        home: str,
        resolve: Resolve,
        protect: Iterable[str] = (),
        allow: Iterable[str] = (),
        defaults: Iterable[str] = DEFAULT_PROTECTED,
    ) -> None:
        self._work_dir = work_dir
        self._home = home
        self._resolve = resolve
        here = fold_name(work_dir)
        # Somebody whose project lies in /opt or /etc wants work done there: a default that covers the
        # whole work dir cannot be meant. What a person asked for by name always holds.
        self._protected = [
            (pattern, expression)
            for pattern in defaults
            if not (expression := compile_pattern(pattern, home)).fullmatch(here)
        ]
        self._protected += [(pattern, compile_pattern(pattern, home)) for pattern in protect]
        self._allowed = [compile_pattern(p, home) for p in (*DEFAULT_EXCEPTIONS, *allow)]

    def absolute(self, path: str) -> str:
        """The path as written, made absolute and plain."""
        if path == "~" or path.startswith("~/"):
            path = self._home + path[1:]
        return posixpath.normpath(posixpath.join(self._work_dir, path))

    def forms(self, path: str) -> tuple[str, ...]:
        """The forms in which a path is judged: as written, and as resolved.

        Raises:
            OSError: the path cannot be resolved (a loop of links, say).
        """
        plain = self.absolute(path)
        # Resolve what was written, not its plain form: `link/..` is not where the text says.
        real = self._resolve(posixpath.join(self._work_dir, path if path[:1] != "~" else plain))
        return (plain,) if real == plain else (plain, real)

    def match(self, path: str) -> str:
        """The pattern that protects this path, or "".

        Fails closed: what cannot be resolved is protected.
        """
        if "\0" in path:
            return "a path with a NUL byte"
        try:
            forms = self.forms(path)
        except OSError as error:
            return f"a path that cannot be resolved ({error.strerror or error})"
        for form in forms:
            folded = fold_name(form)
            if any(allowed.fullmatch(folded) for allowed in self._allowed):
                continue
            for pattern, expression in self._protected:
                if expression.fullmatch(folded):
                    return pattern
        return ""

    def within(self, path: str, folders: Iterable[str]) -> bool:
        """Whether every form of the path lies in one of the folders (given absolute and resolved)."""
        try:
            forms = self.forms(path)
        except OSError:
            return False
        return all(
            any(form == folder or form.startswith(folder.rstrip("/") + "/") for folder in folders)
            for form in forms
        )
