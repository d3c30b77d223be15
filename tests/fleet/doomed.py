"""A program with a supervisor that is going to be killed: `python doomed.py FOLDER STAGE`.

It answers one message, brings the session to the stage named, says so on stdout, and waits for its end.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import trio

from cms.fleet.supervisor import Supervisor, open_supervisor
from cms.session.model import DelegateResult, Limits, SessionOptions, SessionStatus
from cms.testing.script import call, prompt, say
from fleet.kit import ask, at_work, make_options, make_settings, start, talking, toil, until


async def main(folder: str, stage: str) -> None:
    async with open_supervisor(make_settings(Path(folder))) as supervisor:
        if stage == "check":
            options = make_options(supervisor.settings, verify=("touch at-work-one; sleep 600; false",))
            await supervisor.start_delegate(
                options, prompt("Work", say("done", cost_usd=0.05, model="sonnet"))
            )
            await at_work(supervisor)
            await tell_and_wait()
        if stage == "isolated":
            options = make_options(supervisor.settings, isolate="auto")
            work = call("Bash", command="echo mine > mine; rm -f gone; touch at-work; sleep 600")
            await supervisor.start_delegate(options, prompt("Work", work, say("done")))
            await until(lambda: any(supervisor.settings.layers.glob("*/1/0/upper/at-work")))
            await tell_and_wait()
        if stage in ("judging", "judged"):
            await be_judged(supervisor, stage)
        await start(supervisor)
        await ask(supervisor, "one", prompt("Hello", say("first", cost_usd=0.05, model="sonnet")))
        if stage == "tool":
            await supervisor.submit("one", prompt("Work", toil(), say("done")), type="send")
            await at_work(supervisor)
        elif stage == "reply":
            await supervisor.submit("one", prompt("Think", say("a long thought").stalling()), type="send")
            await talking(supervisor)
        if stage != "idle":
            await supervisor.submit("one", "And then", type="send")
        await tell_and_wait()


async def be_judged(supervisor: Supervisor, stage: str) -> None:
    """Its end: while the judge thinks, or when it has answered and nobody has heard it yet."""
    rules = call("StructuredOutput", verdict="pass", reason="because")
    reply = rules.stalling("headers") if stage == "judging" else rules
    options = make_options(
        supervisor.settings,
        judge=prompt("Is it good?", reply.costing(0.02, "sonnet")),
        limits=Limits(max_time=1.0),
    )
    if stage == "judged":
        delegate = supervisor.delegate

        async def never_told(options: SessionOptions, *args: str, **more: Any) -> DelegateResult:
            result = await delegate(options, *args, **more)
            if more.get("judges"):
                await tell_and_wait()
            return result

        supervisor.delegate = never_told  # type: ignore[method-assign] # what is killed here needs an instant
    await supervisor.start_delegate(options, prompt("Work", say("done", cost_usd=0.05, model="sonnet")))

    def thinks() -> bool:
        runner = supervisor.runner("one~judge1")
        return runner is not None and runner.record.status is SessionStatus.BUSY

    if stage == "judging":
        await until(thinks)
        await tell_and_wait()
    await trio.sleep_forever()


async def tell_and_wait() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
