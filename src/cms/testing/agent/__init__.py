"""The simulated agent: speaks stream-json like `claude`, without a model, a network or 200 MB of memory.

`python -m cms.testing.agent` takes the flags of `claude -p` and plays the scripts (`cms.testing.script`)
that it finds in the prompts it is sent. It is for tests that need thousands of agents, or agents that
misbehave in ways the real one cannot be brought to; where the real one will do, it is the better witness.

It imports msgspec and the standard library only, and little of that: it starts in some tens of milliseconds.

| module | purpose |
| --- | --- |
| `options` | the command line |
| `wire` | lines in and out; questions to the host and their answers |
| `scope` | what an interrupt ends: waits, questions and processes |
| `transcript` | the conversation on disk, for `--resume` and `--fork-session` |
| `tools` | Write, Edit, Read and Bash, really done |
| `permissions` | whether a tool call may run: hooks, rules, mode, host |
| `voice` | every kind of line it writes |
| `gate` | asks them, in this order |
| `tasks` | subagents and background shells |
| `session` | turns: from a message to its result |
| `__main__` | stdin, control requests, signals, the end |

What differs from the real one (2.1.330), apart from keys and prose: a reply's tools run one after the other,
and once it is told in full; a retried request waits `CMS_REHEARSAL_RETRY_MS` (500, doubling) without jitter;
no `thinking_tokens`; an interrupted stream is not closed; no credentials are needed, and rate limits are told
whatever they are; of slash commands it knows `/clear`; nothing is compacted; `max_tokens` and `refusal` end
a turn like any stop; MCP, skills, settings files and hooks other than PreToolUse are ignored.
"""

from __future__ import annotations

import sys
from pathlib import Path


def command() -> tuple[str, ...]:
    """What starts the simulated agent from any folder, with little to load; a `claude`'s flags are to follow.

    It takes the interpreter and the import path of this process.
    """
    return (sys.executable, "-SE", "-c", _program())


def write_launcher(path: Path) -> Path:
    """Write an executable that does the same, for where one file is wanted (`CMS_CLAUDE`)."""
    path.write_text(f"#!{sys.executable} -SE\n{_program()}")
    path.chmod(0o755)
    return path


def _program() -> str:
    lines = (
        "import gc, sys",
        "gc.disable()",  # while modules are loaded it finds nothing
        "sys.modules['typing_extensions'] = None",  # as `cms.cli.main` does
        # All that is needed of what `site` finds, which -S leaves out.
        f"sys.path[:] = {[entry for entry in sys.path if entry]!r}",
        "from cms.testing.agent.__main__ import main",
        "gc.enable()",
        "main()",
    )
    return "".join(f"{line}\n" for line in lines)
