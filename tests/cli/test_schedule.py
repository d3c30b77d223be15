"""`cms schedule` through the command line: what it prints, and does when a shell reads it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest

from cli.conftest import Cms


def test_a_shell_that_reads_it_writes_the_units_and_enables_the_timer(
    cms: Cms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cms(
        "schedule", "nightly", "02:00", "--", "delegate", "n-{date}", "first\nCMS_END\n$(touch evil) 'x'"
    )
    assert ran.code == 0, ran
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n')
    (bin_ / "systemctl").chmod(0o755)
    env = {"PATH": f"{bin_}:/usr/bin:/bin", "HOME": str(tmp_path)}
    subprocess.run(["/bin/sh"], input=ran.out, text=True, env=env, cwd=tmp_path, check=True)
    units = tmp_path / ".config" / "systemd" / "user"
    made = {path.name: path.read_text() for path in units.iterdir()}
    told = cms("schedule", "nightly", "02:00", "--json", "--", "delegate", "n-{date}", "x").json()
    assert set(made) == {"cms-nightly.service", "cms-nightly.timer"}
    assert "OnCalendar=*-*-* 2:0:00" in made["cms-nightly.timer"]
    assert f"WorkingDirectory={tmp_path}\n" in made["cms-nightly.service"]
    assert not (tmp_path / "evil").exists()
    assert (tmp_path / "told").read_text().splitlines() == [
        "--user daemon-reload",
        "--user enable --now cms-nightly.timer",
    ]
    assert told["calendar"] == "*-*-* 2:0:00"
    assert [unit["name"] for unit in msgspec.convert(told["units"], list[dict[str, str]])] == sorted(made)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("x", "noon", "--", "cost"), "is not a time"),
        (("x y", "daily", "--", "cost"), "is not a valid session name"),
        (("x", "daily"), "schedule needs a command"),
        (("x", "daily", "--", "costs"), "did you mean 'cost'?"),
        (("x", "daily", "--", "batch", "--fil", "y"), "did you mean '--file'?"),
        (("x", "daily", "batch", "--file", "y"), "the command goes after `--`"),
        (("x", "daily", "--", "send", "y", "-"), "nothing is on stdin"),
        (("x", "daily", "--cron", "--catch-up", "--", "cost"), "--catch-up needs systemd"),
        (("x", "daily", "--cron", "--", "send", "y", "a\nb"), "no line break"),
    ],
)
def test_what_would_fail_at_night_is_refused_now(cms: Cms, words: tuple[str, ...], said: str) -> None:
    ran = cms("schedule", *words)
    assert ran.code == 2
    assert said in ran.err
