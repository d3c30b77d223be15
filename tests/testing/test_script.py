"""The step finder: whatever stands around a script, the next reply is the one that was written next."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.testing.script import (
    Block,
    Drop,
    Fail,
    Message,
    Position,
    Script,
    ScriptedReply,
    Usage,
    call,
    locate,
    price_of,
    prompt,
    read,
    say,
    together,
    usd,
)

texts = st.text(max_size=30)
replies = st.one_of(
    st.builds(say, texts),
    st.builds(lambda name, value: call(name or "X", argument=value), texts, texts),
)
scripts = st.lists(replies, min_size=1, max_size=5).map(tuple)
reminders = st.lists(st.sampled_from(["<system-reminder>\nx\n</system-reminder>", "   "]), max_size=3)
plain = texts.map("Please: {}".format)


def user(*parts: str) -> Message:
    return Message("user", [Block("text", part) for part in parts])


TOOL_RESULT = Message("user", [Block("tool_result")])
SYSTEM = Message("system", [Block("text", "# Environment")])
ASSISTANT = Message("assistant", [Block("text", "something")])


@given(scripts, texts)
def test_a_script_comes_back_out_of_its_prompt(script: tuple[ScriptedReply, ...], text: str) -> None:
    assert read(prompt(text, *script)) == Script(script)


@given(scripts, texts)
def test_a_prompt_carries_one_marker_only_however_deep_scripts_are_nested(
    script: tuple[ScriptedReply, ...], text: str
) -> None:
    nested = prompt(
        "outer", call("Agent", prompt=prompt("inner", call("Agent", prompt=prompt(text, *script))))
    )
    assert nested.count("<cms-script>") == nested.count("</cms-script>") == 1
    assert "@" not in nested.partition("<cms-script>")[2]

    outer = read(nested)
    assert outer is not None
    inner = read(str(outer.replies[0].calls[0].input["prompt"]))
    assert inner is not None
    assert read(str(inner.replies[0].calls[0].input["prompt"])) == Script(script)


@given(scripts, reminders, reminders, st.data())
def test_each_step_is_found_whatever_claude_puts_around_it(
    script: tuple[ScriptedReply, ...], before: list[str], after: list[str], data: st.DataObject
) -> None:
    messages = [user(*before, prompt("Do it", *script), *after), SYSTEM]
    for step, reply in enumerate(script):
        place = locate(messages)
        assert (place.step, place.reply) == (step, reply)
        messages.append(ASSISTANT)
        messages.append(
            data.draw(st.sampled_from([TOOL_RESULT, user("<task-notification>x</task-notification>")]))
        )
        if data.draw(st.booleans()):
            messages.append(SYSTEM)
    assert locate(messages).reply == ScriptedReply(text="Done.")


@given(st.lists(st.tuples(scripts, st.integers(0, 4)), min_size=1, max_size=4))
def test_the_last_of_several_prompts_rules_and_its_key_is_its_own(
    prompts: list[tuple[tuple[ScriptedReply, ...], int]],
) -> None:
    messages: list[Message] = []
    keys = set()
    for script, answered in prompts:
        messages.append(user(prompt("Next", *script)))
        for _ in range(min(answered, len(script))):
            place = locate(messages)
            assert place.reply == script[place.step]
            keys.add(place.key)
            messages += [ASSISTANT, TOOL_RESULT]
    assert len(keys) == sum(min(answered, len(script)) for script, answered in prompts)


@given(scripts, plain)
def test_prompts_merged_into_one_message_are_told_apart(script: tuple[ScriptedReply, ...], text: str) -> None:
    """After an interrupt `claude` puts its note and the next prompt into one message."""
    old = user(prompt("Old", say("old")))
    merged = [old, ASSISTANT, user("[Request interrupted by user]\n", prompt("New", *script))]
    assert locate(merged).reply == script[0]

    unscripted = [old, ASSISTANT, user("[Request interrupted by user]\n", text)]
    assert locate(unscripted) == Position(None, 0, 2, text.strip())


def test_a_fork_and_a_resume_go_on_where_the_conversation_stands() -> None:
    script = (call("Bash", command="a"), call("Bash", command="b"), say("c"))
    prefix = [user(prompt("Go", *script)), ASSISTANT, TOOL_RESULT]
    assert locate([*prefix]).step == locate([*prefix, SYSTEM]).step == 1
    fork = [*prefix, ASSISTANT, TOOL_RESULT, ASSISTANT, user(prompt("Branch", say("elsewhere")))]
    assert locate(fork).reply == say("elsewhere")


def test_without_a_script_the_model_echoes_and_never_leaks_one() -> None:
    assert locate([Message("user", "plain words")]).reply.text == "You said: plain words"
    assert locate([]).reply.text == "Done."
    answered = [user(prompt("Go", say("x"))), ASSISTANT, user("And now?")]
    assert locate(answered).reply.text == "You said: And now?"


def test_a_broken_script_is_an_error_and_no_silent_echo() -> None:
    with pytest.raises(msgspec.DecodeError):
        locate([user("Go <cms-script>{nonsense</cms-script>")])


@given(st.lists(st.integers(1, 3), max_size=4))
def test_faults_come_in_order_and_then_no_more(times: list[int]) -> None:
    reply = say("at last")
    for number in times:
        reply = reply.failing(529, times=number).dropping(times=1)
    expected: list[type | None] = []
    for number in times:
        expected += [Fail] * number + [Drop]
    attempts = range(len(expected) + 3)
    seen = [type(fault) if (fault := reply.fault(attempt)) else None for attempt in attempts]
    assert seen == expected + [None] * 3


@given(st.floats(0, 100), st.sampled_from(["opus", "claude-sonnet-5-5", "haiku", "unheard-of"]))
def test_prices(amount: float, model: str) -> None:
    assert price_of(model).of(usd(amount, model)) == pytest.approx(amount, abs=1e-4)


def test_the_price_that_others_count_on() -> None:
    assert usd(0.05) == Usage(output_tokens=2500)


def test_the_builders_read_as_they_are_meant_to() -> None:
    both = together(call("Read", file_path="a").saying("Both."), call("Bash", command="b")).costing(0.02)
    assert [tool.name for tool in both.calls] == ["Read", "Bash"]
    assert (both.text, both.usage, both.natural_stop_reason) == ("Both.", usd(0.02), "tool_use")
    assert say("x").natural_stop_reason == "end_turn"
    assert say("x").ending("max_tokens").natural_stop_reason == "max_tokens"
