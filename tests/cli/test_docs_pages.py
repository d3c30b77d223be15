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
from documents import ROOT, blocks, commands, files

__all__ = ["shell"]

RUN = ("night", "limits", "safety", "configuration", "from-node", "faq", "mcp")


def text_of(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


@pytest.mark.parametrize("page", RUN)
def test_every_command_of_the_page_works(
    page: str, shell: Shell, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text = text_of(page)
    for file, content in files(text).items():
        (shell.work_dir / file).write_text(content)
    typed = commands(text)
    assert typed
    # In this process, so that Python starts once.
    monkeypatch.chdir(shell.work_dir)
    for name in os.environ:
        monkeypatch.delenv(name)
    for name, value in shell.env.items():
        monkeypatch.setenv(name, value)
    for words in typed:
        end = time.monotonic() + 20
        # Between two commands of a page a night may pass: what a batch is to begin is waited for.
        while (code := main(words)) == ExitCode.NOT_FOUND and time.monotonic() < end:
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
