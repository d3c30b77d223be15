"""A login that has ended, on the real binary: renewed once for all sessions, and never shown to an agent."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from cms.testing.script import call, prompt, say
from real.conftest import World
from real.token_endpoint import token_endpoint

pytestmark = [pytest.mark.real, pytest.mark.own_daemon]

#: Where an agent would look. (The words that are looked for must not stand in the prompt.)
SEARCH = """
cat ~/.claude/.credentials.json "$CLAUDE_SECURESTORAGE_CONFIG_DIR/.credentials.json"
env; cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n'
grep -rsa re''fresh- ~ .. "$CLAUDE_SECURESTORAGE_CONFIG_DIR" "$TMPDIR"; true
"""


def write_login(path: Path, ends_in: float) -> None:
    path.parent.mkdir(exist_ok=True)
    login = {
        "accessToken": "access-0",
        "refreshToken": "refresh-0",
        "expiresAt": int((time.time() + ends_in) * 1000),
        "scopes": ["user:inference", "user:profile"],
        "subscriptionType": "max",
    }
    path.write_text(json.dumps({"claudeAiOauth": login}))
    path.chmod(0o600)


def test_an_ended_login_is_renewed_once_and_no_agent_sees_what_renews_it(
    world: World, tmp_path: Path
) -> None:
    login = world.home / ".claude" / ".credentials.json"
    write_login(login, -3600.0)
    del world.env["ANTHROPIC_API_KEY"]
    with token_endpoint(tmp_path) as endpoint:
        world.env |= endpoint.environ
        task = prompt("Look", call("Bash", command=SEARCH), say("looked"))
        several = [
            world.start("delegate", f"s{number}", task, "--preset", "full", "--json") for number in range(3)
        ]
        for child in several:
            out, err = child.communicate(timeout=60)
            assert child.returncode == 0, (out, err)
        assert (endpoint.asked, endpoint.refused) == (["refresh-0"], [])
        assert world.cms("daemon", "stop").code == 0
    kept = json.loads(login.read_text())["claudeAiOauth"]
    assert (kept["accessToken"], kept["refreshToken"]) == ("access-1", "refresh-1")
    for log in (world.cms_home / "raw").glob("*.log"):
        seen = log.read_bytes()
        assert b"access-1" in seen, "an agent can use the login"
        assert b"refresh-0" not in seen
        assert b"refresh-1" not in seen
