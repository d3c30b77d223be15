"""Where the real binary's sessions write: in the work dir, elsewhere copies; its transcripts last."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from cms.testing.script import ScriptedReply, call, prompt, say
from real.conftest import World

pytestmark = pytest.mark.real


def state(*roots: Path) -> dict[str, str]:
    """Every file below them, by its content."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for root in roots
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def shell(script: str) -> ScriptedReply:
    return call("Bash", command=script)


def test_what_is_written_outside_is_a_copy_and_gone_but_where_it_was_allowed(world: World) -> None:
    claude = world.home / ".claude"
    claude.mkdir()
    (claude / "settings.json").write_text("{}\n")
    other = claude / "projects" / "-other"
    other.mkdir(parents=True)
    (other / "x.jsonl").write_text("{}\n")
    (world.home / ".claude.json").write_text('{"mcpServers":{}}\n')
    (world.home / "notes").write_text("mine\n")
    (world.root / "beside").mkdir()
    (world.home / "data").mkdir()
    before = state(world.home, world.root / "beside")
    script = (
        "echo x > ~/notes; mkdir -p ~/.config/autostart; echo x > ~/.config/autostart/evil.desktop\n"
        'echo \'{"mcpServers":{"evil":{"command":"sh"}}}\' > ~/.claude.json; echo x > ~/.claude/CLAUDE.md\n'
        "mkdir -p ~/.claude/skills/evil; echo x > ~/.claude/skills/evil/SKILL.md\n"
        "echo evil >> ~/.claude/projects/-other/x.jsonl; echo x > ../beside/x; echo x > /tmp/cms-test-evil\n"
        "echo mine > ~/data/x\n"
        "cat ~/notes ../beside/x /tmp/cms-test-evil > seen; touch /usr/evil 2>> seen; true"
    )
    # In a file: claude asks before it runs a command that names its settings.
    (world.work_dir / "go.sh").write_text(script)
    task = prompt("Go", shell("bash go.sh"), say("done"))
    allowed = ("--allow-write", "~/data")
    ran = world.cms("delegate", "one", task, "--preset", "full", *allowed, "--json")
    assert ran.code == 0, ran
    assert ran.json()["reasons"] == [], ran
    assert (world.work_dir / "seen").read_text().startswith("x\nx\nx\n")
    assert "Read-only file system" in (world.work_dir / "seen").read_text()
    after = state(world.home, world.root / "beside")
    new = {name for name in after if name not in before}
    assert {name: after[name] for name in before} == before
    assert not Path("/tmp/cms-test-evil").exists()
    # What was allowed, claude's own transcript, and nothing else.
    new.remove(f"{world.home}/data/x")
    assert len(new) == 1, new
    assert f"{claude}/projects/-" in new.pop()
    again = world.cms("continue", "one", prompt("More", shell("cat ~/notes"), say("still here")), "--json")
    assert again.json()["response"] == "still here"


def test_writes_anywhere_is_said(world: World) -> None:
    task = prompt("Go", shell("echo x > ~/notes"), say("done"))
    ran = world.cms("delegate", "one", task, "--preset", "full", "--writes", "anywhere", "--json")
    assert (world.home / "notes").read_text() == "x\n"
    assert "it can write whatever you can" in ran.err
    assert ran.json()["status"] == "completed"
    assert ran.json()["reasons"] == ["it could write outside its work dir: --writes anywhere"]


def test_the_tools_of_real_work(world: World) -> None:
    """git, pip, pytest, a compiler and npm, with their caches and temporary files."""
    here = world.work_dir
    make_wheel(here)
    (here / "test_it.py").write_text("def test_it(tmp_path): (tmp_path / 'x').touch()\n")
    (here / "main.c").write_text('#include <stdio.h>\nint main(void) { puts("compiled"); }\n')
    (here / "lib").mkdir()
    (here / "lib" / "package.json").write_text('{"name":"lib","version":"1.0.0"}')
    python = sys.executable
    tools = {
        "git": "git init -q . && git add -A && git -c user.name=t -c user.email=t@e.org commit -qm one",
        "pip": f"{python} -m venv v && v/bin/pip install -q --no-index ./demo*.whl && v/bin/python -m demo",
        "pytest": f"{python} -m pytest -q -n 0 -p no:randomly test_it.py && test -d .pytest_cache",
        "gcc": "gcc -o main main.c && test $(./main) = compiled",
        "npm": "npm init -y && npm install --offline --no-audit ./lib && test -e node_modules/lib",
        "temporary": "cd $(mktemp -d) && echo x > y && sort y > z",
        "cache": "mkdir -p ~/.cache/tool && echo x > ~/.cache/tool/x && cat ~/.cache/tool/x",
    }
    missing = [name for name in ("gcc", "npm") if shutil.which(name) is None]
    tools = {name: script for name, script in tools.items() if name not in missing}
    lines = (f"({script}) > {name}.log 2>&1; echo {name} $? >> results" for name, script in tools.items())
    (here / "all.sh").write_text("\n".join(lines))
    task = prompt("Work", shell("bash all.sh"), say("done"))
    ran = world.cms("delegate", "one", task, "--preset", "edit", "--allow", "Bash(*)", "--json", timeout=120)
    assert ran.code == 0, ran
    logs = {name: (here / f"{name}.log").read_text()[-500:] for name in tools}
    assert (here / "results").read_text() == "".join(f"{name} 0\n" for name in tools), logs
    subprocess.run(["git", "-C", str(here), "fsck", "--no-dangling"], capture_output=True, check=True)
    assert not (world.home / ".cache").exists()


def make_wheel(folder: Path) -> None:
    content = b"x = 1\n"
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    with zipfile.ZipFile(folder / "demo-1.0-py3-none-any.whl", "w") as file:
        file.writestr("demo.py", content)
        info = "demo-1.0.dist-info"
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        record = f"demo.py,sha256={digest},{len(content)}\n"
        record += "".join(f"{info}/{name},,\n" for name in ("METADATA", "WHEEL", "RECORD"))
        file.writestr(f"{info}/RECORD", record)


def test_a_session_does_not_see_what_renews_the_login(world: World) -> None:
    """It works with the copy, and the file itself stays as it is."""
    source = world.home / ".claude" / ".credentials.json"
    source.parent.mkdir()
    login = {
        "accessToken": "sk-ant-oat-one",
        "refreshToken": "sk-ant-ort-secret",
        "expiresAt": int((time.time() + 36000) * 1000),
        "scopes": ["user:inference"],
        "subscriptionType": "max",
    }
    source.write_text(json.dumps({"claudeAiOauth": login}))
    source.chmod(0o600)
    before = source.read_bytes()
    look = (
        "cat ~/.claude/.credentials.json > seen 2>&1\n"
        "cat $CLAUDE_SECURESTORAGE_CONFIG_DIR/.credentials.json >> seen\n"
        "echo '{}' > $CLAUDE_SECURESTORAGE_CONFIG_DIR/.credentials.json; rm ~/.claude/.credentials.json\n"
        "grep -ral 'ort-[s]ecret' ~ > found 2>/dev/null; true"
    )
    ran = world.cms("delegate", "one", prompt("Go", shell(look), say("done")), "--preset", "full", "--json")
    assert ran.code == 0, ran
    seen = (world.work_dir / "seen").read_text()
    assert "sk-ant-oat-one" in seen
    assert "secret" not in seen
    assert (world.work_dir / "found").read_text() == ""
    assert source.read_bytes() == before
