"""One assignment and a daemon that is made up: what a node says of what it could not do."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any, Self, cast

import msgspec
import pytest

from cms.batch.remote import Assignment, Card, Done, Repo
from cms.config import Settings
from cms.errors import (
    ClaudeNotFound,
    CmsError,
    ContainmentError,
    DaemonUnavailable,
    HomeUnusable,
    SessionNotFound,
    StoreError,
    UsageError,
    WorkDirError,
)
from cms.nodes import work
from cms.nodes.artifacts import ArtifactError
from cms.nodes.checkout import Checkout, CheckoutError
from cms.nodes.work import Run
from cms.rpc.audit import SESSION_AUDIT
from cms.rpc.sessions import SESSION_CONTINUE, SESSION_DELEGATE, SESSION_GET
from cms.session.model import DelegateResult, Outcome, Safety, SessionOptions


class FakeDaemon:
    """Answers each verb with an error, or a result.

    Attributes:
        asked: the verbs, in order.
    """

    def __init__(self, errors: dict[str, CmsError | DelegateResult]) -> None:
        self.asked: list[str] = []
        self.graces: list[object] = []
        self._errors = errors

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, verb: Any, _params: object, **how: object) -> object:
        self.asked.append(verb.name)
        if "lease" in how:
            self.graces.append(how["grace"])
        answer = self._errors[verb.name]
        if isinstance(answer, CmsError):
            raise answer
        return answer


def no_space(_file: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def done_of(
    monkeypatch: pytest.MonkeyPatch, folder: Path, errors: dict[str, Any], **keys: Any
) -> tuple[Done, list[str]]:
    daemon = FakeDaemon(errors)
    monkeypatch.setattr(work, "connect", lambda _settings: daemon)
    options = SessionOptions("t", str(folder))
    job = Assignment("b/t/1", "b", "t", "t-1", "0.1", options, "do it", heartbeat=20.0, **keys)
    done = Run(Settings(folder), Card("n", "h", 1, "0.1"), job, folder).do()
    assert daemon.graces in ([], [5.0]), "it is ended before the engine may call it lost"
    return done, daemon.asked


@pytest.mark.parametrize(
    "error",
    [ContainmentError("too weak"), ClaudeNotFound("claude"), WorkDirError("no folder"), HomeUnusable("full")],
)
def test_what_this_node_cannot_do_another_one_may(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: CmsError
) -> None:
    done, _ = done_of(monkeypatch, tmp_path, {SESSION_DELEGATE.name: error})
    assert done.refused
    assert not done.begun
    assert done.exact
    assert done.trouble is not None
    assert done.trouble.code == error.code


@pytest.mark.parametrize("kind", [UsageError, ArtifactError, CheckoutError])
def test_what_is_wrong_with_the_task_is_wrong_everywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: type[CmsError]
) -> None:
    done, _ = done_of(monkeypatch, tmp_path, {SESSION_DELEGATE.name: kind("no")})
    assert not done.refused
    assert not done.begun
    assert done.exact


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("turns", [0, 1])
def test_what_was_accepted_and_had_no_room_to_begin_is_for_another_node(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, turns: int, *, full: bool
) -> None:
    (tmp_path / "node").mkdir()
    came = DelegateResult(
        Outcome.FAILED, "t-1", "", "never sent: no space left", 0.0, turns, 1, (), True, Safety()
    )
    answers: dict[str, Any] = {SESSION_DELEGATE.name: came, SESSION_AUDIT.name: CmsError("no")}
    if full:
        monkeypatch.setattr(os, "fsync", no_space)
    done, _ = done_of(monkeypatch, tmp_path, answers)
    assert done.refused is (full and not turns)
    assert (done.result is None) is done.refused
    assert not [path for path in (tmp_path / "node").iterdir() if "probe" in path.name]


@pytest.mark.parametrize("full", [True, False])
def test_a_checkout_without_room_is_for_another_node(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, full: bool
) -> None:
    said = b"error: unable to write file x: No space left on device\nfatal: unable to checkout"

    def git(argv: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(argv, 128, b"", said if full else b"fatal: no such repository")

    monkeypatch.setattr(subprocess, "run", git)
    done, asked = done_of(monkeypatch, tmp_path, {}, repo=Repo(url="file:///x"))
    assert done.refused is full
    assert not done.begun
    assert not asked
    assert done.trouble is not None


def test_a_folder_for_checkouts_that_cannot_be_made_is_for_another_node(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "node").write_text("no folder")
    done, _ = done_of(monkeypatch, tmp_path, {}, repo=Repo(url="file:///x"))
    assert done.refused
    assert not done.begun


@pytest.mark.parametrize("error", [StoreError("the disk is full"), DaemonUnavailable("it is gone")])
@pytest.mark.parametrize(
    ("found", "begun"), [(SessionNotFound("t-1"), False), (DaemonUnavailable("it is gone"), True)]
)
def test_a_daemon_that_failed_over_it_is_asked_whether_anything_was_begun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: CmsError, found: CmsError, *, begun: bool
) -> None:
    done, _ = done_of(monkeypatch, tmp_path, {SESSION_DELEGATE.name: error, SESSION_GET.name: found})
    assert done.begun is begun
    assert done.exact is not begun
    assert done.refused is not begun
    assert done.allowed == (("?",) if begun else ())


def test_what_goes_on_is_never_begun_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone: dict[str, CmsError] = {SESSION_CONTINUE.name: SessionNotFound("t-1")}
    done, asked = done_of(monkeypatch, tmp_path, gone, go_on=True)
    assert asked == [SESSION_CONTINUE.name]
    assert not done.begun
    assert not done.refused, "no other node has its conversation"


class FakeCheckout:
    folder = Path("/work/t-1")

    def __init__(self, changed: str, refusal: str = "") -> None:
        self._changed, self._refusal = changed, refusal
        self.pushed: list[tuple[str, str]] = []

    def patch(self) -> str:
        return self._changed

    def push(self, url: str, branch: str, _message: str) -> str:
        if self._refusal:
            raise CheckoutError(self._refusal)
        self.pushed.append((url, branch))
        return "c0ffee"


def pushed_by(checkout: FakeCheckout, folder: Path) -> Done:
    """What a task is told to have come to that completed with this in its checkout, and is to push it."""
    job = Assignment("b/t/1", "b", "t", "t-1", "0.1", SessionOptions("t", str(folder)), "do it")
    job = msgspec.structs.replace(job, repo=Repo("https://h/p.git"), branch="cms/b/t-1")
    run = Run(Settings(folder), Card("n", "h", 1, "0.1"), job, folder)
    run._checkout = cast("Checkout", checkout)
    result = DelegateResult(Outcome.COMPLETED, "t-1", "", None, 0.5, 3, 1, (), True, Safety(), session_id="s")
    return run._done(result)


def test_what_was_changed_is_pushed(tmp_path: Path) -> None:
    checkout = FakeCheckout("+x")
    done = pushed_by(checkout, tmp_path)
    assert (done.patch, done.branch, done.commit) == ("+x", "cms/b/t-1", "c0ffee")
    assert checkout.pushed == [("https://h/p.git", "cms/b/t-1")]
    nothing = FakeCheckout("")
    assert not pushed_by(nothing, tmp_path).branch
    assert not nothing.pushed


def test_a_push_that_is_refused_fails_the_task_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "_allowed", lambda _: ())
    done = pushed_by(FakeCheckout("+x", "git: fatal: no permission"), tmp_path)
    assert done.result is not None
    assert done.result.status is Outcome.FAILED
    assert "no permission; the folder is /work/t-1 on node n" in (done.result.error or "")
    assert (done.patch, done.branch) == ("+x", "")
