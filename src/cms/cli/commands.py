"""Every command in one table: what it is called, where it is, and what the shells complete behind it.

Names only: whoever needs the table (the command line, the completion, the help) pays for nothing else.
"""

from __future__ import annotations

from typing import Final, NamedTuple

DELEGATION: Final = "Tasks"
SESSIONS: Final = "Sessions"
LOOKING: Final = "Watching"
MONEY: Final = "Money"
SERVICE: Final = "Setup and service"
#: In the order in which `cms --help` shows them.
GROUPS: Final = (DELEGATION, SESSIONS, LOOKING, MONEY, SERVICE)


class Command(NamedTuple):
    """One command. `target`: `module:function`; `usage`: what follows its name, a line for each usual form.

    `session`: which sessions its first argument can name: "any", "live" (with a process), with "many" several
    of them, "" (none that is there already). `common`: `cms help` says what it is for; the others it only
    names.
    """

    names: tuple[str, ...]
    target: str
    usage: str
    group: str
    session: str = ""
    common: bool = True


#: In the order in which a person meets them.
COMMANDS: Final = (
    Command(
        ("delegate",),
        "cms.cli.delegation:delegate",
        "NAME TASK [flags]\nNAME --task-file FILE [flags]\nNAME TASK --detach [flags]",
        DELEGATION,
    ),
    Command(
        ("continue",),
        "cms.cli.delegation:continue_",
        "NAME MESSAGE [flags]\nNAME MESSAGE --max-cost USD [flags]",
        DELEGATION,
        "any",
    ),
    Command(("diff",), "cms.cli.changes:diff", "NAME [flags]", DELEGATION, "any"),
    Command(("apply",), "cms.cli.changes:apply", "NAME [flags]", DELEGATION, "any"),
    Command(("discard",), "cms.cli.changes:discard", "NAME [flags]", DELEGATION, "any", common=False),
    Command(("export",), "cms.cli.changes:export", "NAME TARGET [flags]", DELEGATION, "any", common=False),
    Command(("batches",), "cms.cli.batches:batches", "[flags]", DELEGATION, common=False),
    Command(
        ("spawn",),
        "cms.cli.spawn:spawn",
        "NAME PROMPT [flags]\nNAME --prompt-file FILE [flags]\nNAME PROMPT --detach [flags]",
        SESSIONS,
    ),
    Command(
        ("send", "input"),
        "cms.cli.sessions:send",
        "NAME MESSAGE [flags]\nNAME --message-file FILE [flags]\nNAME - [flags] < FILE",
        SESSIONS,
        "any",
    ),
    Command(("resume",), "cms.cli.sessions:resume", "NAME [MESSAGE] [flags]", SESSIONS, "any"),
    Command(
        ("adopt",),
        "cms.cli.adopt:adopt",
        "[flags]\nCONVERSATION [--name NAME] [flags]",
        SESSIONS,
        common=False,
    ),
    Command(("attach",), "cms.cli.attach:attach", "NAME [flags]", SESSIONS, "any"),
    Command(("pause",), "cms.cli.ends:pause", "NAME... [flags]", SESSIONS, "live many", common=False),
    Command(
        ("fork",), "cms.cli.sessions:fork", "NAME NEW-NAME [MESSAGE] [flags]", SESSIONS, "any", common=False
    ),
    Command(("rename",), "cms.cli.sessions:rename", "NAME NEW-NAME [flags]", SESSIONS, "any", common=False),
    Command(
        ("tag",), "cms.cli.tag:tag", "NAME [TAG...] [--remove TAG] [flags]", SESSIONS, "any", common=False
    ),
    Command(("interrupt",), "cms.cli.ends:interrupt", "NAME [flags]", SESSIONS, "live", common=False),
    Command(("stop",), "cms.cli.ends:stop", "NAME... [flags]", SESSIONS, "live many"),
    Command(("kill",), "cms.cli.ends:kill", "NAME... [flags]", SESSIONS, "live many"),
    Command(("delete",), "cms.cli.ends:delete", "NAME... [flags]", SESSIONS, "many", common=False),
    Command(("cleanup",), "cms.cli.ends:cleanup", "[flags]", SESSIONS, common=False),
    Command(("status",), "cms.cli.status:status", "NAME [flags]", LOOKING, "any"),
    Command(("output",), "cms.cli.status:output", "NAME [flags]", LOOKING, "any"),
    Command(("history",), "cms.cli.status:history", "NAME [flags]", LOOKING, "any", common=False),
    Command(("list",), "cms.cli.status:list_sessions", "[flags]", LOOKING),
    Command(("top",), "cms.cli.top:top", "[flags]", LOOKING),
    Command(("view",), "cms.cli.view:view", "[flags]", LOOKING),
    Command(("logs",), "cms.cli.logs:logs", "NAME [flags]", LOOKING, "any"),
    Command(("audit",), "cms.cli.audit:audit", "NAME [flags]", LOOKING, "any", common=False),
    Command(("search",), "cms.cli.search:search", "WORD... [flags]", LOOKING),
    Command(("ask",), "cms.cli.questions:ask", "[NAME] [flags]", LOOKING, "any"),
    Command(
        ("answer",),
        "cms.cli.questions:answer",
        "NAME ANSWER... [flags]\nNAME allow|deny [flags]",
        LOOKING,
        "any",
    ),
    Command(("wait",), "cms.cli.sessions:wait", "NAME... [flags]", LOOKING, "many"),
    Command(("fleet",), "cms.cli.fleet:fleet", "--on URL [flags]", LOOKING, common=False),
    Command(("cost",), "cms.cli.cost:cost", "[flags]", MONEY),
    Command(("usage",), "cms.cli.usage:usage", "[flags]", LOOKING, common=False),
    Command(("metrics",), "cms.cli.metrics:metrics", "[flags]", SERVICE, common=False),
    Command(
        ("schedule",),
        "cms.cli.schedule:schedule",
        "NAME WHEN [flags] -- COMMAND...",
        SERVICE,
        common=False,
    ),
    Command(("completion",), "cms.cli.completion:completion", "SHELL [flags]", SERVICE, common=False),
    Command(("trust",), "cms.cli.trust:trust", "[DIR] [flags]", SERVICE, common=False),
    Command(("doctor",), "cms.cli.selftest:doctor", "[flags]", SERVICE),
    Command(("drill",), "cms.cli.selftest:drill", "[flags]", SERVICE, common=False),
    Command(("setup",), "cms.cli.setup:setup", "[flags]", SERVICE),
    Command(("mcp",), "cms.cli.mcp:mcp", "", SERVICE, common=False),
    Command(("demo",), "cms.cli.selftest:demo", "[flags]", SERVICE),
    Command(("help",), "cms.cli.help:help_", "[COMMAND...] [flags]", SERVICE, common=False),
)
#: Commands that have commands of their own: name -> (help, group, (name, target, usage)s).
FAMILIES: dict[str, tuple[str, str, tuple[tuple[str, str, str], ...]]] = {
    "batch": (
        "Run many tasks from a file or a table, in parallel.",
        DELEGATION,
        (
            ("show", "cms.cli.batches:show", "ID [flags]"),
            ("pause", "cms.cli.batches:pause", "ID [flags]"),
            ("resume", "cms.cli.batches:resume", "ID [flags]"),
            ("stop", "cms.cli.batches:stop", "ID [flags]"),
            ("set", "cms.cli.batch_steer:set_", "ID [flags]"),
            ("requeue", "cms.cli.batch_steer:requeue", "ID [TASK...] [flags]"),
            ("cancel", "cms.cli.batch_steer:cancel", "ID [TASK...] [flags]"),
        ),
    ),
    "budget": (
        "Cap what all sessions together may spend.",
        MONEY,
        (
            ("set", "cms.cli.budget:set_", "[flags]"),
            ("show", "cms.cli.budget:show", "[flags]"),
            ("clear", "cms.cli.budget:clear", "[flags]"),
        ),
    ),
    "config": (
        "Show the settings, where each comes from, and the profiles.",
        SERVICE,
        (
            ("get", "cms.cli.config:get", "KEY [flags]"),
            ("set", "cms.cli.config:set_", "KEY VALUE... [flags]"),
            ("unset", "cms.cli.config:unset", "KEY [flags]"),
        ),
    ),
    "node": (
        "Run tasks of batches from other machines.",
        SERVICE,
        (
            ("status", "cms.cli.node:status", "[flags]"),
            ("drain", "cms.cli.node:drain", "[flags]"),
            ("unit", "cms.cli.node:unit", "[flags]"),
        ),
    ),
    "daemon": (
        "Look after the background process that owns the live sessions.",
        SERVICE,
        (
            ("run", "cms.cli.daemon:run", ""),
            ("status", "cms.cli.daemon:status", "[flags]"),
            ("stop", "cms.cli.daemon:stop", "[flags]"),
            ("logs", "cms.cli.daemon:logs", "[flags]"),
            ("unit", "cms.cli.daemon:unit", "[flags]"),
        ),
    ),
}
