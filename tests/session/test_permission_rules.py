"""The rules that a person is told to give: what claude proposes, as it was measured (2.1.331)."""

from __future__ import annotations

import msgspec
import pytest

from cms.session.permission_rules import permitting
from cms.session.state import PendingCall

FOLDERS = ("/srv/app", "/srv/lib")
#: What claude proposes for what it takes apart, and what a command writes to.
DIRECTORY = {"type": "addDirectories", "directories": ["/srv/app"], "destination": "session"}
MODE = {"type": "setMode", "mode": "acceptEdits", "destination": "session"}


def rules(*contents: str | None, tool: str = "Bash") -> dict[str, object]:
    found = [
        {"toolName": tool} | ({} if content is None else {"ruleContent": content}) for content in contents
    ]
    return {"type": "addRules", "rules": found, "behavior": "allow", "destination": "localSettings"}


def ask(suggestions: object, *, tool: str = "Bash", blocked: str = "") -> tuple[str, ...]:
    raw = msgspec.Raw(msgspec.json.encode(suggestions))
    call = PendingCall.of("1", "permission", tool, msgspec.Raw(b"{}"), blocked_path=blocked, suggestions=raw)
    return permitting(call, FOLDERS)


@pytest.mark.parametrize(
    ("suggestions", "blocked", "expected"),
    [
        ([rules("npm install *")], "", ("Bash(npm install *)",)),
        ([rules("curl https://x.y"), rules("sh")], "", ("Bash(curl https://x.y)", "Bash(sh)")),
        ([rules("make", "make")], "", ("Bash(make)",)),
        ([rules("touch a *"), DIRECTORY, MODE], "/srv/app/a", ("Bash(touch a *)",)),
        ([rules("echo a *"), DIRECTORY], "/srv/app/d/f", ("Bash(echo a *)", "Edit(d/f)")),
        ([rules("echo a *"), DIRECTORY], "/srv/lib/f", ("Bash(echo a *)", "Edit(//srv/lib/f)")),
        ([rules("make a *"), DIRECTORY, MODE], "", ("Bash",)),
        ([rules("touch /etc/a"), DIRECTORY, MODE], "/etc/a", ()),
        ([], "", ("Bash",)),
        ([rules("a\nb")], "", ("Bash",)),
        ([rules("a) , Bash(b")], "", ("Bash",)),
        ([rules("x" * 600)], "", ("Bash",)),
        ([{"type": "addRules", "rules": [{"toolName": "Bash"}], "behavior": "deny"}], "", ("Bash",)),
        ("no list", "", ("Bash",)),
        ([{"type": 7}], "", ("Bash",)),
    ],
)
def test_the_rules(suggestions: object, blocked: str, expected: tuple[str, ...]) -> None:
    assert ask(suggestions, blocked=blocked) == expected


def test_of_other_tools() -> None:
    assert ask([rules("domain:x.y", tool="WebFetch")], tool="WebFetch") == ("WebFetch(domain:x.y)",)
    assert ask([rules(None, tool="mcp__db__query")], tool="mcp__db__query") == ("mcp__db__query",)
    assert ask([], tool="mcp__a,b__c") == ()
