"""The public surface: every name is there, and nothing is loaded before it is asked for."""

from __future__ import annotations

import subprocess
import sys

import cms


def test_every_public_name_can_be_had() -> None:
    for name in cms.__all__:
        assert getattr(cms, name) is not None
    assert set(cms._HOMES) | {"__version__"} == set(cms.__all__)


def test_importing_the_package_loads_no_other_module_of_it() -> None:
    code = "import cms, sys; print(sorted(m for m in sys.modules if m.startswith('cms.') or m == 'trio'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['cms._version']"


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(cms, "no_such_thing")
