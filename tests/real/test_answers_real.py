"""On the real binary: a failed check goes back into the warm session and is put right in the second round."""

from __future__ import annotations

import pytest

from cms.testing.script import call, prompt, say
from real.conftest import World

pytestmark = pytest.mark.real


def test_a_repair_that_holds_in_its_second_round(world: World) -> None:
    mend = prompt("Mend it", call("Bash", command="printf x >> fixed"), say("mended"))
    (world.work_dir / "script").write_text(mend)
    check = 'cat script; echo; echo "not yet"; test "$(cat fixed 2>/dev/null)" = xx'
    words = ("--verify", check, "--repair", "2", "--preset", "full", "--json")
    ran = world.cms("delegate", "one", prompt("Work", say("done")), *words)
    assert (ran.code, ran.json()["status"]) == (0, "completed"), (ran.out, ran.err)
    assert (world.work_dir / "fixed").read_text() == "xx"
    rounds = ran.json()["rounds"]
    assert isinstance(rounds, list)
    assert [one["status"] for one in rounds] == ["verification_failed", "verification_failed", "completed"]
    assert ran.json()["cost"] == pytest.approx(sum(one["cost"] for one in rounds))
    listed = world.cms("history", "one", "--json").json()["interactions"]
    assert isinstance(listed, list)
    assert [one["type"] for one in listed] == ["delegate", "repair", "repair"]
    assert "> not yet" in listed[1]["prompt"]
