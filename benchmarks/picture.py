"""The picture in the README: real commands on the real `claude`, answered by the scripted model.

    python -m benchmarks.picture        # writes docs/terminal.svg

Each command runs on a pseudo-terminal in a private world. A prompt carries the script of its answers; the
picture shows the words before it, and `~` for the private home. Text stays text in
the SVG, and nothing is loaded from elsewhere.
"""

from __future__ import annotations

import io
import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from cms.config import find_claude, load_settings
from cms.testing.api import api_process, environment
from cms.testing.script import call, prompt, say

TARGET: Final = Path(__file__).parents[1] / "docs" / "terminal.svg"
COLUMNS: Final = 92
#: Rich's own, less its window and its fonts from a CDN.
SVG: Final = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>cms in a terminal</title>
<style>
text {{ font: {char_height}px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace }}
{styles}
</style>
<defs>{lines}</defs>
<rect width="100%" height="100%" rx="8" fill="#292929"/>
<g transform="translate(12, 10)">{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""

BUGGY: Final = "def mean(numbers):\n    return sum(numbers) / (len(numbers) - 1)\n"
FIXED: Final = BUGGY.replace("(len(numbers) - 1)", "len(numbers)")
TEST: Final = "from stats import mean\nassert mean([2, 4, 6]) == 4\n"


def run(words: list[str], folder: Path, env: dict[str, str]) -> str:
    """What a command prints on a terminal, colours included."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "cms", *words], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        cwd=folder, env=env,
    ):  # fmt: skip
        os.close(theirs)
        found = bytearray()
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux's way to say that the other end is closed
                break
            if not piece:
                break
            found += piece
    os.close(ours)
    return found.decode().replace("\r\n", "\n")


def commands(project: Path) -> list[list[str]]:
    """What is typed; the prompts with the answers to them."""
    stats, hook = str(project / "stats.py"), str(project / ".git" / "hooks" / "pre-commit")
    fix = prompt(
        "fix mean()",
        call("Read", file_path=stats).costing(0.004, "sonnet"),
        call("Write", file_path=hook, content="exit 1\n").costing(0.006, "sonnet"),
        call("Edit", file_path=stats, old_string=BUGGY, new_string=FIXED).costing(0.005, "sonnet"),
        say("Fixed: it divided by n - 1.", cost_usd=0.003, model="sonnet"),
    )
    reply = call("Read", file_path=stats).costing(0.05, "sonnet")
    survey = prompt("Look for more like it", *[reply] * 20)
    return [
        ["delegate", "fix", fix, "--verify", "python3 test_stats.py", "--on-violation", "deny"],
        ["delegate", "survey", survey, "--max-cost", "0.10"],
        ["list"],
    ]


def main() -> None:
    """Run the commands, write the picture."""
    claude = " ".join(find_claude(load_settings()))
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    with tempfile.TemporaryDirectory(prefix="cms-picture-") as root, api_process() as url:
        project = Path(root) / "home" / "stats"
        project.mkdir(parents=True)
        for name, text in {"stats.py": BUGGY, "test_stats.py": TEST}.items():
            (project / name).write_text(text)
        subprocess.run(["git", "init", "-q", str(project)], check=True)
        env = {
            "PATH": os.environ["PATH"], "HOME": str(project.parent), "CMS_HOME": f"{root}/cms",
            "LANG": "C.UTF-8", "COLUMNS": str(COLUMNS), "CMS_CLAUDE": claude, "ANTHROPIC_API_KEY": "test",
            **environment(url),
        }  # fmt: skip
        for number, words in enumerate(commands(project)):
            typed = [re.sub(r"\s*<.*", "", word, flags=re.DOTALL) for word in words]
            if number:
                console.print()
            console.print(Text.assemble(("$ ", "bold green"), (f"cms {shlex.join(typed)}", "bold")))
            shown = run(words, project, env).replace(str(project.parent), "~")
            console.print(Text.from_ansi(shown.rstrip("\n")))
        run(["daemon", "stop"], project, env)
    TARGET.write_text(console.export_svg(code_format=SVG, unique_id="cms"))


if __name__ == "__main__":
    main()
