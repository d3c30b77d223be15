"""What this process takes of the machine, and gives back."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cms.fleet import machine

#: Frees what lies between things that stay, and tells what of it is still ours afterwards, in MiB.
_HOLES = """
import psutil
from cms.fleet import machine

def rss():
    return psutil.Process().memory_info().rss / 2**20

before = rss()
kept = [bytes(20_000) for _ in range(2_000)]
del kept[:-1]  # the newest lies on top, so that nothing goes back by itself
freed = rss()
machine.trim_heap()
print(freed - before, rss() - before)
"""


@pytest.mark.skipif(machine._glibc() is None, reason="only glibc can be told")
def test_what_is_free_goes_back_to_the_system() -> None:
    told = subprocess.run([sys.executable, "-c", _HOLES], capture_output=True, text=True, check=True).stdout
    freed, trimmed = map(float, told.split())
    assert freed > 30
    assert trimmed < 5


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_glibc", lambda: None)
    machine.share_heaps()
    machine.trim_heap()
