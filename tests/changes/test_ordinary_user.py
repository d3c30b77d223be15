"""Where the tests run as root, what they show must hold for everybody else, too: run them again as nobody."""

from __future__ import annotations

from pathlib import Path

import ordinary_user

HERE = Path(__file__).parent
FILES = ("test_property.py", "test_layer.py", "test_apply.py")


def test_as_nobody() -> None:
    files = (str(HERE / name) for name in FILES)
    assert " passed" in ordinary_user.run_tests(*files, within=60, CMS_CHANGE_EXAMPLES="6")
