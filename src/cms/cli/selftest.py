"""`cms doctor` and `cms drill`: what this machine has, and whether it is enough to go to sleep by.

Apart from the fast commands, because they make containers in this very process: there need be no daemon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cms.cli import flags, io, render
from cms.cli.flags import JsonFlag
from cms.errors import ExitCode
from cms.units import plural, size

if TYPE_CHECKING:
    from cms.selftest.doctor import Checkup, Claude, Containment, Daemon, Home, Isolation

_PROMISES = {
    "kill_all": "kill ends every descendant",
    "dies_with_supervisor": "all end when cms is killed",
    "protected_paths": "protected paths hold",
    "hidden_paths": "hidden paths hold",
    "freeze": "freeze stops everything",
    "memory_cap": "memory cap",
    "process_cap": "process cap",
    "no_tampering": "no process speaks for another",
    "copy_on_write": "writes outside are copies",
}


def doctor(*, json: JsonFlag = False) -> int:
    """Check what this machine can guarantee.

    Tries each step of containment once, and looks at claude and its login (spending nothing), CMS_HOME and
    the daemon. Exits with 0 if sessions can run and every kill is certain (level C or better), else with 1.
    SECURITY.md explains the levels.

    Example::

        cms doctor
    """
    from cms.selftest.doctor import examine

    checkup = examine()
    if json:
        io.show_json(checkup)
    else:
        io.show_lines(checkup_lines(checkup))
    return ExitCode.COMPLETED if checkup.ok else ExitCode.FAILED


def drill(
    *,
    quick: Annotated[
        bool, flags.switch("--quick", "Run fewer, smaller cases: half a minute instead of one or two.")
    ] = False,
    only: Annotated[
        tuple[str, ...],
        flags.many(
            "--only", "Run only kill, freeze, walls, caps, folder, limits or crash. Repeatable.", "GROUP"
        ),
    ] = (),
    strict: Annotated[
        bool, flags.switch("--strict", "Also fail on what this machine does not promise (`cms doctor`).")
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Test this machine for real before a night run.

    Runs programs that try to outlive a kill or to get past the walls and caps, in this machine's containers.
    The limits and a SIGKILL of the daemon are tried with the real claude on a scripted model, if there is a
    claude. Costs nothing, contacts nobody and cleans up. Exits with 0 if everything this machine promises
    held, else with 1.

    Examples::

        cms drill
        cms drill --quick --json
    """
    from cms.selftest.drill.run import main
    from cms.selftest.drill.trials import Plan

    return main(Plan(quick=quick, strict=strict, only=only), json=json)


def demo(*, json: JsonFlag = False) -> int:
    """Show a whole delegation on this machine, free and offline.

    The real Claude Code, on a scripted model, edits a file in a scratch repository under limits; a write to a
    protected path is refused. Needs no account.

    Example::

        cms demo
    """
    from cms.selftest.demo import main

    return main(json=json)


def checkup_lines(checkup: Checkup) -> list[str]:
    """The whole checkup for a person, what is wrong last, where the eye is."""
    lines = render.fields(
        (
            ("containment", _containment(checkup.containment)),
            ("claude", _claude(checkup.claude)),
            ("home", _home(checkup.home)),
            ("--isolate", _isolation(checkup.isolation)),
            ("daemon", _daemon(checkup.daemon)),
            ("cms", f"{checkup.cms}, Python {checkup.python}, trio {checkup.trio}, {checkup.platform}"),
        ),
        indent="",
    )
    guarantees = checkup.containment.guarantees
    if guarantees is not None:
        rows = []
        for name, words in _PROMISES.items():
            one = getattr(guarantees, name)
            rows.append((words, f"{one.strength}: {one.why}" if one.why else one.strength))
        lines[1:1] = render.fields(rows)
    for fatal, head in ((False, "Could be better:"), (True, "Not ready:")):
        chosen = [problem for problem in checkup.problems if problem.fatal is fatal]
        if chosen:
            lines += ["", head]
        for problem in chosen:
            lines.append(f"  {problem.what}: {problem.why}")
            if problem.hint:
                lines.append(f"      {problem.hint}")
    if checkup.ok:
        lines += ["", "ready"]
    return lines


def _containment(found: Containment) -> str:
    return f"{found.mechanism}, level {found.level}" if found.guarantees is not None else "NONE"


def _claude(found: Claude | None) -> str:
    if found is None:
        return "NOT FOUND"
    login = {"yes": "logged in", "no": "NOT LOGGED IN", "unknown": "login unknown"}[found.login]
    method = f" ({found.method})" if found.method else ""
    known = "" if found.standing == "unknown" else f" ({found.standing})"
    fit = ", works with cms" if found.fit else ""
    return f"{found.version or 'DOES NOT RUN'}{known}{fit}, {login}{method}, {found.path}"


def _home(found: Home) -> str:
    return f"{found.path}, {size(found.free)} free" if found.usable else f"{found.path}, NOT USABLE"


def _isolation(found: Isolation) -> str:
    return f"{found.kind}: {found.why}" if found.why else found.kind


def _daemon(found: Daemon) -> str:
    if not found.running:
        return "not running; the first command that needs it starts it"
    live = plural(found.live, "live session")
    return f"runs: pid {found.pid}, version {found.version}, {live}, {found.containment}"
