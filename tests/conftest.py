"""The garbage collector leaves alone what lives as long as the run does: modules, and thousands of tests."""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    gc.disable()  # nearly all of it stays
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()
