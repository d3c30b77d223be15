"""`spawn`: start a live session."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from cms.cli import flags, io
from cms.cli.flags import AttachFlag, DetachFlag, JsonFlag, NameFlag, NameWord, StopFlag
from cms.cli.hook_flags import Notify, OnAsk, OnDone, OnFail, Webhook, hooks
from cms.cli.option_flags import LIMITS, SESSION, SpawnFlags
from cms.cli.sessions import send_and_show
from cms.errors import UsageError
from cms.options import Layer
from cms.rpc.sessions import SESSION_SPAWN, SpawnParams


def spawn(
    name: NameWord = None,
    prompt: Annotated[str | None, flags.word("The first message; - reads it from stdin.")] = None,
    /,
    *,
    name_flag: NameFlag = None,
    prompt_flag: Annotated[
        str | None, flags.text_flag("--prompt", "The prompt, instead of PROMPT.", group=SESSION, rare=True)
    ] = None,
    prompt_file: Annotated[
        str | None, flags.text_flag("--prompt-file", "Read the prompt from this file.", "FILE", SESSION)
    ] = None,
    attach: AttachFlag = (),
    stop: StopFlag = False,
    detach: DetachFlag = False,
    max_budget: Annotated[
        float | None,
        flags.grouped(
            Parameter(
                name="--max-budget",
                converter=flags.to_money,
                metavar="USD",
                help="The same as --max-cost.",
            ),
            LIMITS,
            rare=True,
        ),
    ] = None,
    on_done: OnDone = "",
    on_fail: OnFail = "",
    on_ask: OnAsk = "",
    webhook: Webhook = "",
    notify: Notify = (),
    said: Annotated[SpawnFlags, Parameter(name="*")] = SpawnFlags(),  # noqa: B008 - it is frozen
    json: JsonFlag = False,
) -> int:
    """Start a session, send it a prompt and print the answer.

    The session stays alive for `cms send` from any shell.

    Examples::

        cms spawn fix-auth "find out why the login test fails"
        cms spawn notes --preset read-only --prompt-file ask.txt --stop
    """
    who, word = flags.pick_name_and_word("spawn", name, prompt, name_flag, "prompt")
    text = flags.pick_text("spawn", "prompt", word=word, flag=prompt_flag, file=prompt_file)
    if max_budget is not None and said.layer.max_cost is not None:
        raise UsageError("--max-budget and --max-cost are the same flag; give one")
    if stop and detach:
        raise UsageError("--stop and --detach exclude each other")
    options = said.options(who, over=Layer(max_cost=max_budget))
    said.warn()
    params = SpawnParams(
        options=options,
        prompt=text or "",
        stop=stop,
        wait=not detach,
        hooks=hooks(on_done, on_fail, on_ask, webhook, notify),
        attachments=io.attached(attach),
    )
    return send_and_show(who, SESSION_SPAWN, params, detach=detach, json=json)
