"""A `claude` for `cms attach`: with `-p` the simulated agent, else an interface of one key each.

$ a reply that costs ten cents. s tells the size of the terminal. w writes in the work dir. c begins another
conversation, as `/clear` does. q leaves. k dies of SIGKILL. It writes what the real one does, at the same
moments (`cms.protocol.conversation`): its status line after each reply, its total as it ends, on SIGTERM and
a hang-up too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tty
import uuid
from pathlib import Path

from cms.testing.agent.__main__ import main as speak_protocol
from cms.testing.agent.transcript import place

MODES = b"\x1b[?1049h\x1b[?25l\x1b[>1u"
NO_MODES = b"\x1b[<u\x1b[?25h\x1b[?1049l"
MODEL = "claude-sonnet-5-5"


class Interface:
    def __init__(self, words: list[str]) -> None:
        given = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
        self.id = given.get("--resume") or given["--session-id"]
        settings = json.loads(Path(given["--settings"]).read_text())
        self.status_line = settings["statusLine"]["command"]
        self.spent = 0.0
        self.tokens = 0

    def serve(self) -> None:
        tty.setraw(0)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self.leave(143))
        self.say(MODES + b"READY " + os.environ["TERM"].encode() + b"\r\n")
        self.tell()
        while key := os.read(0, 1):
            if key == b"$":
                self.reply()
            elif key == b"s":
                self.say(f"size {os.get_terminal_size(0).columns}\r\n".encode())
            elif key == b"w":
                Path("made").write_text("by hand")
                self.say(b"written\r\n")
            elif key == b"c":
                self.save()
                self.id, self.spent, self.tokens = str(uuid.uuid4()), 0.0, 0
                self.tell()
                self.say(b"cleared\r\n")
            elif key == b"k":
                os.kill(os.getpid(), signal.SIGKILL)
            elif key == b"q":
                self.say(NO_MODES)
                self.leave(0)
            else:
                self.say(f"heard {key!r}\r\n".encode())

    def reply(self) -> None:
        self.spent += 0.1
        self.tokens += 10_000
        content = [{"type": "text", "text": "by hand"}]
        message = {"id": f"msg_{uuid.uuid4()}", "role": "assistant", "model": MODEL, "content": content}
        self.write({"type": "user", "message": {"role": "user", "content": "do it"}})
        self.write({"type": "assistant", "isSidechain": False, "message": message})
        self.tell()
        self.say(b"replied\r\n")

    def tell(self) -> None:
        told = {"session_id": self.id, "cost": {"total_cost_usd": self.spent}, "model": {"id": MODEL}}
        shown = subprocess.check_output(["/bin/sh", "-c", self.status_line], input=json.dumps(told).encode())
        self.say(b"[" + shown.strip() + b"] ")

    def save(self) -> None:
        usage = {MODEL: {"inputTokens": 0, "outputTokens": self.tokens, "costUSD": self.spent}}
        self.write({"type": "cost-state", "totalCostUSD": self.spent, "modelUsage": usage})

    def leave(self, status: int) -> None:
        self.save()
        os._exit(status)

    def write(self, line: dict[str, object]) -> None:
        path = place(self.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def say(self, data: bytes) -> None:
        os.write(1, data)


def main() -> None:
    words = sys.argv[1:]
    if "-p" in words or "--version" in words:
        speak_protocol()
    else:
        Interface(words).serve()


def write_launcher(path: Path) -> Path:
    """Write an executable that starts it, for `CMS_CLAUDE`."""
    lines = (
        f"#!{sys.executable}",
        "import sys",
        f"sys.path[:] = {[entry for entry in sys.path if entry]!r}",
        "from cli.by_hand import main",
        "main()",
    )
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o755)
    return path
