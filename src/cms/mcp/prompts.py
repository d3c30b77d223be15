"""Prompts that a person picks in their client, and the guide that teaches a parent to delegate well.

The guide's text is in `guide.md` beside this file: `cms setup --guide` installs the same words as a skill.
"""

from __future__ import annotations

from importlib import resources

import msgspec

from cms.errors import UsageError


class Argument(msgspec.Struct, frozen=True):
    name: str
    description: str
    required: bool = False


class PromptText(msgspec.Struct, frozen=True):
    """One prompt. `{names}` in the text stand for its arguments."""

    name: str
    title: str
    description: str
    arguments: tuple[Argument, ...]
    text: str

    def filled(self, given: dict[str, str]) -> str:
        """The text with the arguments in their places.

        Raises:
            UsageError: an argument is missing or unknown.
        """
        known = {argument.name: argument for argument in self.arguments}
        for name in given:
            if name not in known:
                raise UsageError(
                    f"prompt {self.name} takes no {name!r}", hint=f"it takes {', '.join(known) or 'nothing'}"
                )
        text = self.text
        for argument in self.arguments:
            value = given.get(argument.name, "").strip()
            if argument.required and not value:
                raise UsageError(f"prompt {self.name} needs {argument.name}: {argument.description}")
            text = text.replace("{" + argument.name + "}", value or "not given: choose sensibly")
        return text


def guide() -> str:
    """The strategy guide, Markdown."""
    return resources.files("cms.mcp").joinpath("guide.md").read_text(encoding="utf-8")


PROMPTS: tuple[PromptText, ...] = (
    PromptText(
        name="split-and-delegate",
        title="Split a goal and delegate it",
        description="Plan a goal as independent pieces, delegate them under one budget, check the results.",
        arguments=(
            Argument("goal", "what is to be reached", required=True),
            Argument("budget", "US dollars for all of it"),
        ),
        text="""Reach this goal by delegating with the cms tools:

{goal}

Budget for everything, in US dollars: {budget}.

1. Look at the code yourself, just enough to split the goal into pieces that do not wait for each other and do
   not edit the same files. If it does not split, say so and do it yourself: one delegation is not cheaper
   than your own work.
2. For each piece write down: the task with all that the agent needs to know, the preset, maxCost, and the
   command that proves it done (`verify`). The sum of maxCost must stay within the budget, with a fifth kept
   for follow-ups. Show me this list before you start.
3. Delegate the pieces side by side: each with detach, then one `wait` for all.
4. Read each verdict. `completed` means judged done, not right: check with a command or by reading the diff.
   Use `continue` for what is missing.
5. Join the results, run the whole check yourself, and report what was done, what was not, and the cost.
""",
    ),
    PromptText(
        name="second-opinion",
        title="Have a change reviewed",
        description="Let a fresh agent that has not seen this conversation review a change; read-only.",
        arguments=(Argument("change", "what to review: a diff range, files, a branch", required=True),),
        text="""Get a second opinion on this change with the cms tools: {change}

Use one `delegate` with preset `review`, maxCost 0.50. The reviewer reads and searches files and cannot run
git: put the diff into `context`, or a large one into a file that it can read. Its task says what the change
is meant to do, which files it touches, and that you want findings with file and line, most serious first,
nothing else. Do not tell the reviewer what you think of it. Then judge each finding yourself against the
code, and tell me which hold and which do not, and why.
""",
    ),
    PromptText(
        name="how-to-delegate",
        title="How to delegate well",
        description="When to delegate, how to split, presets and limits, how to check, how to spend little.",
        arguments=(),
        text="",
    ),
)


def text_of(name: str, given: dict[str, str]) -> tuple[PromptText, str]:
    """A prompt and its filled text.

    Raises:
        UsageError: there is no such prompt, or its arguments are wrong.
    """
    for prompt in PROMPTS:
        if prompt.name == name:
            return prompt, guide() if not prompt.text else prompt.filled(given)
    raise UsageError(f"there is no prompt {name!r}", hint=f"there are {', '.join(p.name for p in PROMPTS)}")
