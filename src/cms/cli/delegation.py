"""Commands for one task under limits: `delegate`, and `continue` for what follows."""

from __future__ import annotations

from typing import Annotated

import msgspec
from cyclopts import Parameter

from cms.cli import flags, io, render
from cms.cli.flags import AttachFlag, JsonFlag, NameFlag, NameWord
from cms.cli.hook_flags import Notify, OnAsk, OnDone, OnFail, Webhook, hooks
from cms.cli.option_flags import TASK, DelegateFlags, LimitFlags
from cms.cli.sessions import MessageFile, MessageFlag, MessageWord, show_accepted
from cms.errors import UsageError
from cms.layers import DELEGATION, terms_of
from cms.rpc.sessions import (
    SESSION_CONTINUE,
    SESSION_DELEGATE,
    AcceptedResult,
    ContinueParams,
    DelegateParams,
)
from cms.rpc.verbs import P, Verb
from cms.session.model import DelegateResult, exit_code_of

DetachFlag = Annotated[bool, flags.switch("--detach", "Return at once; the daemon does the work.")]


def delegate(
    name: NameWord = None,
    task: Annotated[str | None, flags.word("What to do; - reads it from stdin.")] = None,
    /,
    *,
    name_flag: NameFlag = None,
    task_flag: Annotated[
        str | None, flags.text_flag("--task", "The task, instead of TASK.", group=TASK, rare=True)
    ] = None,
    task_file: Annotated[
        str | None, flags.text_flag("--task-file", "Read the task from this file.", "FILE", TASK)
    ] = None,
    attach: AttachFlag = (),
    detach: DetachFlag = False,
    foreground: Annotated[
        bool,
        flags.switch(
            "--foreground", "Do the work in this command, without the daemon; everything ends with it."
        ),
    ] = False,
    on_done: OnDone = "",
    on_fail: OnFail = "",
    on_ask: OnAsk = "",
    webhook: Webhook = "",
    notify: Notify = (),
    said: Annotated[DelegateFlags, Parameter(name="*")] = DelegateFlags(),  # noqa: B008 - it is frozen
    json: JsonFlag = False,
) -> int:
    """Have one task done under limits, with nobody watching.

    The session is stopped at the end and can be continued with `cms continue`. What the preset does not allow
    is refused and reported. Ctrl-C stops the work. The exit code says how it ended (see `cms --help-all`).

    Examples::

        cms delegate fix-auth "make the login test pass" --verify "pytest -q"
        cms delegate audit --preset read-only --max-cost 0.50 --task-file ask.md
        cms delegate night --detach --max-time 2h --allow 'Bash(pytest *)' "tidy up"
    """
    who, word = flags.pick_name_and_word("delegate", name, task, name_flag, "task")
    text = flags.pick_text("delegate", "task", word=word, flag=task_flag, file=task_file)
    if detach and foreground:
        raise UsageError("--detach and --foreground exclude each other")
    options = said.options(who, DELEGATION, delegated=True)
    layer = said.layer
    if layer.repair and not (options.verify or options.judge):
        hint = "add --verify CMD or --judge PROMPT"
        raise UsageError("--repair needs a check", hint=hint)
    if (layer.judge_max_cost or layer.judge_model) and not options.judge:
        raise UsageError("--judge-max-cost and --judge-model need a judge", hint="add --judge PROMPT")
    said.warn()
    context = said.layer.context or ""
    params = DelegateParams(
        options=options,
        task=text or "",
        context=context,
        detach=detach,
        hooks=hooks(on_done, on_fail, on_ask, webhook, notify),
    )
    if foreground:
        from cms.cli import foreground as runner

        params = msgspec.structs.replace(params, attachments=runner.attached(attach))
        return _show(*runner.delegate(params, quiet=json), json=json)
    params = msgspec.structs.replace(params, attachments=io.attached(attach))
    return wait_and_show(SESSION_DELEGATE, params, who, detach=detach, json=json)


def continue_(
    name: NameWord = None,
    message: MessageWord = None,
    /,
    *,
    name_flag: NameFlag = None,
    message_flag: MessageFlag = None,
    message_file: MessageFile = None,
    attach: AttachFlag = (),
    detach: DetachFlag = False,
    on_done: OnDone = "",
    on_fail: OnFail = "",
    on_ask: OnAsk = "",
    webhook: Webhook = "",
    notify: Notify = (),
    said: Annotated[LimitFlags, Parameter(name="*")] = LimitFlags(),  # noqa: B008 - it is frozen
    json: JsonFlag = False,
) -> int:
    """Send a follow-up to a delegated session.

    Limits of cost, turns and tool calls count for the whole session. When one is used up, raise it here.

    Examples::

        cms continue fix-auth "yes, also rename the helper"
        cms continue fix-auth "go on" --max-cost 5
    """
    who, word = flags.pick_name_and_word("continue", name, message, name_flag, "message")
    text = flags.pick_text("continue", "message", word=word, flag=message_flag, file=message_file)
    terms = msgspec.structs.asdict(terms_of(said.layer))
    told = hooks(on_done, on_fail, on_ask, webhook, notify)
    files = io.attached(attach)
    params = ContinueParams(
        name=who, message=text or "", detach=detach, hooks=told, attachments=files, **terms
    )
    return wait_and_show(SESSION_CONTINUE, params, who, detach=detach, json=json)


def wait_and_show(
    verb: Verb[P, DelegateResult | AcceptedResult], params: P, name: str, *, detach: bool, json: bool
) -> int:
    reply, shows = io.work(verb, params, name=name, quiet=json or detach)
    if isinstance(reply, AcceptedResult):
        return show_accepted(reply, detached=detach, json=json)
    return _show(reply, shows, json=json)


def _show(result: DelegateResult, shows: io.Shows, *, json: bool) -> int:
    if json:
        io.show_json(result)
    else:
        rest = msgspec.structs.replace(result, response="") if shows(result.response) else result
        io.show_lines(render.delegate_lines(rest, io.out_style()))
    return exit_code_of(result.status)
