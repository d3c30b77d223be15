"""Settings, files and answers from outside: any text gives a value or a clear error of ours."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cms.config import VARIABLES, load_settings, load_settings_and_file
from cms.config_file import ConfigFile, FileSettings, read_config
from cms.errors import CmsError, UsageError
from cms.options import OPTIONS
from cms.selftest.doctor import _read_login
from sampling import sized

KEYS = sorted(
    {
        *FileSettings.__struct_encode_fields__,
        *(flag.removeprefix("--") for option in OPTIONS.values() for flag in option.flags),
        *("nonsense", "safety"),
    }
)
VALUES = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=12).map(
        lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    ),
    st.integers(-(2**40), 2**70).map(str),
    st.floats().map(lambda number: str(number).replace("inf", "inf")),
    st.sampled_from(
        ["true", "[]", '["a", "b"]', "{}", "1979-05-27", '"2h"', '"1G"', '"A"', '"-1"', "''", "nan"]
    ),
)
TABLES = st.sampled_from(["settings", "defaults", "profiles.night", 'profiles."a b"', "profiles", "nonsense"])
FILES = st.lists(
    st.tuples(TABLES, st.lists(st.tuples(st.sampled_from(KEYS), VALUES), max_size=4)), max_size=4
).map(
    lambda tables: "\n".join(
        f"[{table}]\n" + "\n".join(f"{key} = {value}" for key, value in rows) for table, rows in tables
    ).encode()
)


@settings(max_examples=sized(80), deadline=None)
@given(FILES | st.binary(max_size=200))
def test_any_file_gives_settings_or_an_error_that_names_it(content: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="cms-fuzz-") as folder:
        (Path(folder) / "config.toml").write_bytes(content)
        try:
            found = read_config(Path(folder))
        except UsageError as error:
            assert "config.toml" in error.message  # noqa: PT017 - both ways out are fine
            assert "\n" not in error.message  # noqa: PT017 - both ways out are fine
        else:
            assert isinstance(found, ConfigFile)
            for name in found.profiles:
                found.profile(name)
        try:
            load_settings_and_file({"CMS_HOME": folder, "HOME": folder})
        except CmsError as error:
            assert error.message  # noqa: PT017 - both ways out are fine


@settings(max_examples=sized(80), deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(sorted({*VARIABLES.values(), "CMS_HOME", "CMS_CHILD_SOCKET"})), st.text(max_size=8)
    )
)
def test_any_environment_gives_settings_or_a_usage_error(environ: dict[str, str]) -> None:
    environ = {key: value.replace("\0", "") for key, value in environ.items()}
    try:
        found = load_settings(environ)
    except UsageError as error:
        assert any(key in error.message for key in environ)  # noqa: PT017 - both ways out are fine
    else:
        assert os.path.isabs(found.home)  # noqa: PTH117 (a question about a text)


@given(st.text() | st.sampled_from(['{"loggedIn": 1}', '{"loggedIn": true}', "[]", '{"loggedIn": null}']))
def test_whatever_claude_says_of_its_login(said: str) -> None:
    login, method = _read_login(said)
    assert login in ("yes", "no", "unknown")
    assert method == "" or login == "yes"
