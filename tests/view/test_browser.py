"""The pages in a real browser, with a real daemon and the simulated agent behind them.

One browser and one daemon serve the module. Every page that a test opened is looked at once more at its end:
the browser had nothing to complain of (no exception, nothing that a policy refused), and whatever was asked
for was asked of this machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import msgspec
import pytest

from cli.shell import Shell, shell
from cms.testing.script import call, prompt, say
from view.browser import Page
from view.checker import faults

__all__ = ["shell"]


HOSTILE = (
    "<script>document.title = 'owned'</script><img src='http://evil.example/x' onerror='window.owned = 1'>"
    "<a href='javascript:alert(1)'>x</a> & \u202etxt.exe\u2066 \x1b[31m "
)
QUESTION = {
    "question": "Which database?",
    "header": "db",
    "multiSelect": False,
    "options": [{"label": "2", "description": "<b>first</b>"}, {"label": "SQLite\u202e"}],
}


class Server:
    """A `cms view` that runs."""

    def __init__(self, shell: Shell, *words: str, environ: dict[str, str] | None = None) -> None:
        self._child = shell.start("view", "--no-open", "--json", *words, env=environ)
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        assert line, self._child.communicate()[1]
        self.address = str(msgspec.json.decode(line, type=dict[str, object])["address"])
        self.origin = self.address.partition("/?")[0]

    def end(self) -> None:
        self._child.send_signal(signal.SIGINT)
        assert self._child.communicate(timeout=10) == ("", "")
        assert self._child.returncode == 0


@pytest.fixture(scope="module")
def server(shell: Shell) -> Iterator[Server]:
    here = Server(shell, "--act")
    yield here
    here.end()


def open_session(page: Page, server: Server, name: str) -> None:
    page.open(server.address)
    page.click("a", name)
    page.until_text(name, "h1")


def test_what_is_hostile_is_text(shell: Shell, server: Server, page: Page) -> None:
    long = "x" * 50_000
    (shell.work_dir / "a.txt").write_text("a\n")
    shell.cms("delegate", "hostile", prompt(HOSTILE, call("Read", file_path=HOSTILE), say(HOSTILE + long)))
    open_session(page, server, "hostile")
    page.until_text("more characters")
    text = page.text()
    assert "<script>document.title = 'owned'</script>" in text
    assert "\\u202etxt.exe\\u2066 \\u001b[31m" in text
    assert "\u202e" not in text
    assert page.js("document.title") == "hostile · cms"
    assert page.js("[window.owned, document.images.length, document.scripts.length].join()") == ",0,1"
    assert page.js("document.documentElement.scrollWidth <= innerWidth")
    # Even a script of ours could not: the browser refuses to make HTML of a text.
    assert (
        page.js("try { document.body.innerHTML = '<b>'; 'made' } catch (error) { error.name }") == "TypeError"
    )
    page.forgive("TrustedHTML")
    assert faults(page) == []
    page.look(dark=True, width=320)
    assert faults(page) == []


def test_clicking_through(shell: Shell, server: Server, page: Page) -> None:
    tasks = [
        {"name": f"task-{number}", "prompt": prompt("go", say(f"answer {number}", cost_usd=0.01 * number))}
        for number in range(3)
    ]
    tasks[1]["verify"] = ["false"]  # type: ignore[assignment]
    (shell.work_dir / "tasks.json").write_bytes(msgspec.json.encode(tasks))
    assert shell.cms("batch", "--file", "tasks.json", "--report", "night.html").code == 8
    page.open(server.address)
    page.until_text("task-2")
    assert "token" not in str(page.js("location.href"))
    assert page.js("document.cookie") == ""
    page.click("nav a", "Batches")
    page.click("a", "tasks-")
    page.until_text("answer 2", "#tasks")
    assert "Time line: 3 tasks" in str(
        page.js("document.querySelector('#line svg').getAttribute('aria-label')")
    )
    assert faults(page) == []
    page.look(dark=True, width=320)
    assert faults(page) == []
    page.look()
    page.click("#tasks button.sort", "Cost")
    page.until("document.querySelector('#tasks tbody tr').innerText.includes('task-2')")
    page.js("document.querySelector('#tasks select').value = 'bad'")
    page.js("document.querySelector('#tasks select').dispatchEvent(new Event('input', {bubbles: true}))")
    page.until("document.querySelectorAll('#tasks tbody tr').length === 1")
    page.click("#tasks a", "task-1")
    page.until_text("verification failed", ".title")
    page.until_text("answer 1", "#conversation")
    assert "Another session" not in page.text()
    page.js("history.back()")
    page.until_text("Batch tasks-", "h1")
    shell.ok("rename", "task-0", "renamed")
    shell.ok("rename", "task-2", "task-0")
    page.js("document.querySelector('#tasks select').value = 'all'")
    page.js("document.querySelector('#tasks select').dispatchEvent(new Event('input', {bubbles: true}))")
    page.click("#tasks a", "task-0")
    page.until_text("Another session has this name now")
    # The report is the same page, in a file.
    page.open(f"file://{shell.work_dir}/night.html")
    page.until_text("answer 2", "#tasks")
    assert faults(page) == []


def test_a_change_is_shown_with_its_patch(shell: Shell, server: Server, page: Page) -> None:
    write = call("Write", file_path=str(shell.work_dir / "new <b>.txt"), content=f"{HOSTILE}\n")
    assert shell.cms("delegate", "changes", prompt("go", write, say("done")), "--isolate").code == 0
    open_session(page, server, "changes")
    page.until_text("+<script>", "#changes")
    assert "new <b>.txt" in page.text("#changes summary")
    assert faults(page) == []


def test_answering_a_question(shell: Shell, server: Server, page: Page) -> None:
    ask = call("AskUserQuestion", questions=[QUESTION])
    shell.ok("spawn", "asking", prompt("go", ask, say("thanks")), "--ask-timeout", "5m", "--detach")
    shell.wait_until("asking", lambda found: "waits for a person" in str(found["activity"]))
    page.open(server.address)
    page.until_text("1 waiting for you")
    page.click("a", "asking")
    page.until_text("Which database?", "form")
    assert "<b>first</b>" in page.text("form")
    assert "SQLite\\u202e" in page.text("form")
    assert faults(page) == []
    page.look(dark=True, width=320)
    assert faults(page) == []
    page.look()
    page.click("form button", "Answer")
    page.until_text("Choose an answer", "#said")
    page.click("form label", "2")
    page.click("form button", "Answer")
    page.until_text("asking: answered", "#said")
    page.until("!document.querySelector('form')")
    page.until_text("Which database? 2", "#conversation")
    page.until_text("thanks", "#conversation")


def test_answering_what_has_ended(shell: Shell, server: Server, page: Page) -> None:
    ask = call("AskUserQuestion", questions=[QUESTION])
    assert shell.cms("delegate", "ended", prompt("go", ask, say("thanks"))).code == 3
    open_session(page, server, "ended")
    page.click("form label", "2")
    page.click("form button", "Answer and go on")
    page.until_text("ended: answered, and at work again", "#said")
    page.until_text("The answer to your question 'Which database?': 2", "#conversation")
    page.until("!document.querySelector('form')")


def test_allowing_and_denying_what_a_session_wants(shell: Shell, server: Server, page: Page) -> None:
    bash = [call("Bash", command=f"echo {word} > {word}") for word in ("one", "two")]
    shell.ok("spawn", "wants", prompt("go", *bash, say("thanks")), "--ask-timeout", "5m", "--detach")
    open_session(page, server, "wants")
    page.until_text("echo one > one", "form")
    page.click("form button", "Allow")
    page.until_text("echo two > two", "form")
    page.click("form input[name=message]")
    page.type("not on a Friday")
    page.click("form button", "Deny")
    page.until_text("not on a Friday", "#conversation")
    shell.wait_until("wants", lambda found: found["status"] == "ready")
    assert (shell.work_dir / "one").exists()
    assert not (shell.work_dir / "two").exists()


def test_killing_and_stopping(shell: Shell, server: Server, page: Page) -> None:
    for name in ("kill-me", "stop-me"):
        shell.ok("spawn", name, prompt("go", say("hello")))
    open_session(page, server, "kill-me")
    page.click("button", "Kill")
    page.until_text("every process that it started", "dialog")
    assert page.js("document.activeElement.innerText") == "Leave it"
    assert faults(page) == []
    page.press("Escape")
    page.until("!document.querySelector('dialog')")
    assert shell.status("kill-me")["status"] == "ready"
    page.click("button", "Kill")
    page.click("dialog button", "Kill it")
    page.until_text("kill-me: killed, nothing of it is left running", "#said")
    page.until_text("killed", ".title")
    assert shell.status("kill-me")["status"] == "killed"
    open_session(page, server, "stop-me")
    page.click("button", "Stop")
    page.click("dialog button", "Stop it")
    page.until_text("stop-me: stopped", "#said")
    page.until("!document.querySelector('[data-act=kill]')")


def test_without_act_it_only_looks(shell: Shell, page: Page) -> None:
    ask = call("AskUserQuestion", questions=[QUESTION])
    shell.ok("spawn", "looked-at", prompt("go", ask, say("thanks")), "--ask-timeout", "5m", "--detach")
    server = Server(shell)
    open_session(page, server, "looked-at")
    page.until_text("cms answer looked-at ANSWER")
    assert page.js("document.querySelectorAll('form, main button[data-act]').length") == 0
    post = (
        "fetch(document.documentElement.dataset.acts, {method: 'POST', body: '{}'}).then((one) => one.status)"
    )
    assert page.js(post) == 403
    shell.ok("kill", "looked-at")
    page.until_text("killed", ".title")
    server.end()
    page.until_text("connecting", "#state")
    page.events("Log.entryAdded")
    page.forgive("ERR_CONNECTION", "ERR_INCOMPLETE", "403")


def test_by_keyboard_alone(shell: Shell, server: Server, page: Page) -> None:
    shell.ok("spawn", "by-key", prompt("go", say("hello")))
    page.open(server.address)
    page.until_text("by-key")
    page.press("Tab")
    assert page.js("document.activeElement.innerText") == "To the contents"
    page.press("Enter")
    for _ in range(20):
        page.press("Tab")
        if page.js("document.activeElement.innerText") == "by-key":
            break
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.js(outline) == "solid"
    # What is new does not take the focus away.
    shell.ok("spawn", "meanwhile", prompt("go", say("hello")))
    page.until_text("meanwhile")
    assert page.js("document.activeElement.innerText") == "by-key"
    page.press("Enter")
    page.until_text("by-key", "h1")


def test_an_export_needs_no_server(shell: Shell, page: Page, tmp_path: Path) -> None:
    secret = "correct-horse-battery"
    shell.cms("delegate", "exported", prompt("go", say(f"the key is {secret}")))
    shell.env["SOME_API_KEY"] = secret
    folder = tmp_path / "out"
    assert "session" in shell.ok("view", "--export", str(folder)).out
    del shell.env["SOME_API_KEY"]
    for path in folder.iterdir():
        assert secret not in path.read_text(), path
    assert "not empty" in shell.cms("view", "--export", str(folder)).err
    page.open(f"file://{folder}/index.html")
    page.click("a", "exported")
    page.until_text("the key is [secret]", "#conversation")
    assert faults(page) == []
    page.click("nav a", "Batches")
    page.until_text("Batches", "h1")
    assert all(one.startswith(f"file://{folder}/") for one in page.asked())


def test_the_address_alone_opens_it(shell: Shell, server: Server, page: Page) -> None:
    page.open(f"{server.origin}/")
    page.until_text("Open the address that `cms view` has printed.")
    page.forgive("403")


def test_what_no_page_of_ours_would_send(server: Server) -> None:
    """By hand, to the server as it runs; the rules one by one are in `test_guard`."""
    host = server.origin.removeprefix("http://")

    def ask(method: str, path: str, body: str = "", **headers: str) -> tuple[int, str, str]:
        connection = HTTPConnection(host, timeout=10)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body=body, headers=names)
        answer = connection.getresponse()
        found = (answer.status, answer.read().decode(), answer.headers.get("Set-Cookie", ""))
        connection.close()
        return found

    _, _, cookie = ask("GET", server.address.removeprefix(server.origin))
    base = cookie.partition("Path=")[2].partition(";")[0]
    cookie = cookie.partition(";")[0]
    assert ask("GET", f"{base}assets/app.js")[0] == 403
    assert ask("GET", f"{base}assets/app.js", Cookie=cookie)[0] == 200
    assert ask("GET", f"{base}assets/app.js", Cookie=cookie, Host=f"evil.example:{host[10:]}")[0] == 421
    for path in (
        "assets/..%2fdata.py",
        "assets/../data.py",
        "assets/document.py",
        "feed/session",
        "feed/x",
        "x",
    ):
        assert ask("GET", base + path, Cookie=cookie)[0] == 404, path
    page = ask("GET", f"{base}sessions", Cookie=cookie)[1]
    token = page.partition('data-csrf="')[2].partition('"')[0]
    ours = {"Cookie": cookie, "Origin": server.origin, "X_CMS_Token": token}
    json = {"Content_Type": "application/json"}
    good = '{"act": "stop", "name": "nobody"}'
    assert ask("POST", f"{base}acts", good, Cookie=cookie, **json)[0] == 403
    assert ask("POST", f"{base}acts", good, **ours)[0] == 400, "a form can send any text, but no JSON"
    for bad in (
        "",
        "{",
        "[]",
        '{"act": "spawn", "name": "x"}',
        '{"act": "stop"}',
        good[:-1] + ', "more": 1}',
        "x" * 300_000,
    ):
        assert ask("POST", f"{base}acts", bad, **ours, **json)[0] == 400, bad[:40]
    status, told, _ = ask("POST", f"{base}acts", good, **ours, **json)
    assert status == 409
    assert "no session named" in told
    assert ask("GET", f"{base}acts", **ours)[0] == 405


def test_who_holds_the_port_is_told(shell: Shell, server: Server) -> None:
    port = server.origin.rpartition(":")[2]
    ran = shell.cms("view", "--no-open", "--port", port)
    assert (ran.code, ran.out) == (2, "")
    assert "already in use" in ran.err


def test_the_browser_gets_an_address_of_its_own(shell: Shell, tmp_path: Path) -> None:
    """What stands on a command line is no secret: the opened one is good once, and not the printed one."""
    opener = tmp_path / "opener"
    opener.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    opener.chmod(0o700)
    child = shell.start("view", env={"BROWSER": f"{opener} %s"})
    assert child.stdout is not None
    printed = child.stdout.readline().strip()
    shell.wait_for(tmp_path / "opened")
    while not (opened := (tmp_path / "opened").read_text().strip()):
        time.sleep(0.01)
    assert opened.partition("token=")[0] == printed.partition("token=")[0]
    assert opened != printed
    child.send_signal(signal.SIGTERM)
    assert child.wait(10) == 0


def test_a_missing_extra_is_named(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'hypercorn' else find(name, *rest)\n"
    )
    path = os.pathsep.join([str(tmp_path), shell.env["PYTHONPATH"]])
    done = subprocess.run(
        ["python", "-m", "cms", "view", "--no-open"],
        env={**shell.env, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'claude-multi-session[web]'" in done.stderr
