"""A real browser, driven by the DevTools protocol over pipes: no port, nothing between it and us.

`Browser` is one headless Chromium; `Page` one tab of it. What a page asks for is recorded (`asked`), and no
name but 127.0.0.1 is resolved, so whatever would leave the machine is seen and goes nowhere.
"""

from __future__ import annotations

import base64
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

PATIENCE = 40.0  # seconds
_FLAGS = (
    "--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-default-apps", "--no-default-browser-check", "--disable-dev-shm-usage", "--mute-audio",
    "--disable-features=Translate,OptimizationHints,MediaRouter,DialMediaRouteProvider",
    "--renderer-process-limit=1", "--disable-site-isolation-trials",  # one for each tab takes more
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
#: The protocol's pipes are 3 and 4.
_LAUNCHER = """
import fcntl, os, sys
given, taken = (fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3])
os.dup2(given, 3)
os.dup2(taken, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def chromium() -> str | None:
    """The browser's path; None where there is none."""
    return os.environ.get("CMS_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


class _Message(msgspec.Struct):
    """A reply (with an id), or an event (with a method)."""

    id: int = 0
    method: str = ""
    params: dict[str, object] = {}
    result: dict[str, object] = {}
    error: dict[str, object] | None = None
    sessionId: str = ""  # noqa: N815 - the protocol's name


class Refused(Exception):
    """The browser did not do it; mostly because the page that was meant has just been left."""


class Browser:
    """One Chromium."""

    def __init__(self, program: str, folder: Path) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        self._buffer = b""
        self._last_id = 0
        self.events: list[_Message] = []
        self._child = subprocess.Popen(
            [
                *(sys.executable, "-c", _LAUNCHER, str(theirs_in), str(theirs_out), program, *_FLAGS),
                *(f"--user-data-dir={folder / 'profile'}", "about:blank"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs_in, theirs_out),
            env={**os.environ, "HOME": str(folder), "DBUS_SESSION_BUS_ADDRESS": "disabled:"},
        )
        os.close(theirs_in)
        os.close(theirs_out)

    def close(self) -> None:
        self.ask("Browser.close")
        self._child.wait(PATIENCE)
        os.close(self._in)
        os.close(self._out)

    def page(self) -> Page:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, str(session), str(target))

    def ask(self, method: str, session: str = "", **params: object) -> dict[str, object]:
        """Send a command and wait for its result."""
        self._last_id += 1
        wanted = self._last_id
        message: dict[str, object] = {"id": wanted, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data = msgspec.json.encode(message) + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        end = time.monotonic() + PATIENCE
        while True:
            found = self._next(end)
            assert found is not None, f"no answer to {method}"
            if found.id == wanted:
                if found.error is not None:
                    raise Refused(f"{method}: {found.error}")
                return found.result
            self.events.append(found)

    def pump(self, seconds: float) -> None:
        """Take events for a while."""
        end = time.monotonic() + seconds
        while (found := self._next(end)) is not None:
            self.events.append(found)

    def _next(self, end: float) -> _Message | None:
        while b"\0" not in self._buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._in], [], [], left)[0]:
                return None
            data = os.read(self._in, 1 << 20)
            assert data, "the browser has gone"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        return msgspec.json.decode(line, type=_Message)


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser = browser
        self._session = session
        self._target = target
        self._forgiven: tuple[str, ...] = ()
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def close(self) -> None:
        self._browser.ask("Target.closeTarget", targetId=self._target)

    def ask(self, method: str, **params: object) -> dict[str, object]:
        return self._browser.ask(method, self._session, **params)

    def events(self, method: str) -> list[dict[str, object]]:
        self._browser.pump(0)
        return [
            one.params
            for one in self._browser.events
            if one.method == method and one.sessionId == self._session
        ]

    def open(self, url: str) -> None:
        self.ask("Page.navigate", url=url)

    def js(self, expression: str) -> object:
        """The value of an expression in the page."""
        found = self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in found, (expression, found["exceptionDetails"])
        return msgspec.convert(found["result"], dict[str, object]).get("value")

    def until(self, expression: str, good: Callable[[object], bool] = bool) -> object:
        """Wait until an expression is as wanted."""
        end = time.monotonic() + PATIENCE
        found: object = None
        while True:
            # A page that is just being loaded has no body yet.
            try:
                found = self.js(f"document.readyState === 'loading' ? null : ({expression})")
                if good(found):
                    return found
            except Refused as error:
                found = error
            assert time.monotonic() < end, (expression, found, self.complaints())
            self._browser.pump(0.03)

    def text(self, selector: str = "body") -> str:
        return str(self.js(f"(document.querySelector({selector!r}) || {{innerText: ''}}).innerText"))

    def until_text(self, text: str, selector: str = "body") -> None:
        where = f"((document.querySelector({selector!r}) || {{}}).innerText || '')"
        self.until(f"{where}.includes({msgspec.json.encode(text).decode()})")

    def click(self, selector: str, text: str = "") -> None:
        """A real click of the mouse on the first that has the selector (and the text)."""
        words = msgspec.json.encode(text).decode()
        find = f"[...document.querySelectorAll({selector!r})].find((one) => one.innerText.includes({words}))"
        self.until(f"Boolean({find})")
        self.js(f"{find}.scrollIntoView({{block: 'center'}})")
        box = msgspec.convert(
            self.js(f"((b) => [b.x + b.width / 2, b.y + b.height / 2])({find}.getBoundingClientRect())"),
            tuple[float, float],
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def type(self, text: str) -> None:
        self.ask("Input.insertText", text=text)

    def press(self, key: str) -> None:
        codes = {"Tab": 9, "Enter": 13, "Escape": 27}
        for kind in ("keyDown", "keyUp"):
            more = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.ask(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=codes[key],
                **more,
            )

    def look(self, *, dark: bool = False, width: int = 1280, height: int = 900) -> None:
        """As a person has set the browser."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Emulation.setScrollbarsHidden", hidden=True)
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def shoot(self, path: Path) -> None:
        """A picture of all of the page."""
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(str(found["data"])))

    def asked(self) -> list[str]:
        """Every address that the page has asked for."""
        sent = self.events("Network.requestWillBeSent")
        return [str(msgspec.convert(one["request"], dict[str, object])["url"]) for one in sent]

    def complaints(self) -> list[str]:
        """What the browser has to say against the page: exceptions, errors, what a policy refused."""
        thrown = [str(one["exceptionDetails"]) for one in self.events("Runtime.exceptionThrown")]
        entries = [msgspec.convert(one["entry"], dict[str, object]) for one in self.events("Log.entryAdded")]
        told = thrown + [str(one) for one in entries if one["level"] == "error"]
        return [one for one in told if not any(word in one for word in self._forgiven)]

    def forgive(self, *words: str) -> None:
        """Complaints with one of these words are what the test wants."""
        self._forgiven += words
