"""The pages for users stay true: their commands are run, in order, and so are the programs they show."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from cli.shell import Shell, shell
from cms.cli.app import main
from cms.errors import ExitCode
from cms.testing.script import call, prompt, say
from documents import ROOT, blocks, commands, files

__all__ = ["shell"]

RUN = (
    *("night", "limits", "safety", "configuration", "from-node", "faq", "mcp"),
    *("batch", "answers", "work-products", "attach"),
)

#: What the pages take for granted in the folder.
FILES = {
    "stats.py": b"",
    "parser.py": b"",
    "server.log": b"refused\n",
    **dict.fromkeys(("shot.png", "second.png"), b"\x89PNG\r\n\x1a\n" + bytes(64)),
    "tasks.json": b'[{"name": "alpha", "prompt": "Say a"}, {"name": "beta", "prompt": "Say b"}]',
}

#: What the model does where a page is about what it did.
PLAYED = {
    "Fix the login bug": (call("Write", file_path="login.txt", content="x"), say("Fixed.")),
    "Try it with Redis": (call("Write", file_path="redis.txt", content="x"), say("Tried.")),
    "Which modules have no tests?": (call("StructuredOutput", modules=["auth"]),),
    "Is every command in it right?": (call("StructuredOutput", verdict="pass", reason="they are"),),
}


def text_of(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


@pytest.mark.parametrize("page", RUN)
def test_every_command_of_the_page_works(
    page: str, shell: Shell, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text = text_of(page)
    for file, content in (FILES | {name: body.encode() for name, body in files(text).items()}).items():
        (shell.work_dir / file).write_bytes(content)
    (shell.work_dir / "patches").mkdir(exist_ok=True)
    typed = commands(text)
    assert typed
    # In this process, so that Python starts once.
    monkeypatch.chdir(shell.work_dir)
    for name in os.environ:
        monkeypatch.delenv(name)
    for name, value in shell.env.items():
        monkeypatch.setenv(name, value)
    for words in typed:
        played = [prompt(word, *PLAYED[word]) if word in PLAYED else word for word in words]
        end = time.monotonic() + 20
        # Between two commands of a page a night may pass: what a batch is to begin is waited for.
        while (code := main(played)) == ExitCode.NOT_FOUND and time.monotonic() < end:
            time.sleep(0.05)
        assert code == 0, (words, capfd.readouterr())


def test_the_programs_of_the_page_work(shell: Shell) -> None:
    programs = [program for program in blocks(text_of("library"), "python").split("import trio\n") if program]
    assert len(programs) == 2
    for folder in ("app", "api", "web"):
        (shell.root / "src" / folder).mkdir(parents=True)
    for program in programs:
        ran = subprocess.run(
            [sys.executable, "-c", "import trio\n" + program.replace("/src/", f"{shell.root}/src/")],
            env=shell.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        assert "completed" in ran.stdout
