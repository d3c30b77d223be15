"""Every byte that is not ours stays as it is, however the text is written."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.setup.edit_json import get, insert, remove

keys = st.text(max_size=6)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
ENTRY = {"type": "stdio", "command": "/bin/cms", "args": ["mcp"], "env": {"CMS_HOME": "/x y/é"}}


def written(value: object, rng: random.Random) -> str:
    """JSON as a person, or any program, may write it: odd white space, escapes, digits."""

    def space() -> str:
        return "".join(rng.choice(" \n\t\r") for _ in range(rng.randrange(3)))

    def text(key: object) -> str:
        return json.dumps(key, ensure_ascii=rng.random() < 0.5)

    if isinstance(value, dict):
        pairs = [
            f"{space()}{text(key)}{space()}:{space()}{written(one, rng)}{space()}"
            for key, one in value.items()
        ]
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(space() + written(one, rng) + space() for one in value) + "]"
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.3:
        return f"{value}.0" if rng.random() < 0.5 else f"{value}e0"
    return text(value)


@given(st.dictionaries(keys, values, max_size=4), st.dictionaries(keys, values, max_size=3), st.randoms())
def test_what_was_put_in_comes_out_without_a_trace(
    whole: dict[str, object], servers: dict[str, object], rng: random.Random
) -> None:
    servers.pop("cms", None)
    whole["mcpServers"] = servers
    text = written(whole, rng) + rng.choice(("", "\n"))
    with_ours = insert(text, ("mcpServers",), "cms", ENTRY)
    assert get(with_ours, ("mcpServers", "cms")) == ENTRY
    assert json.loads(with_ours) == json.loads(text) | {
        "mcpServers": json.loads(text)["mcpServers"] | {"cms": ENTRY}
    }
    assert remove(with_ours, ("mcpServers",), "cms") == text


@given(st.dictionaries(keys, values, max_size=4), st.randoms())
def test_the_object_is_made_where_it_is_missing(whole: dict[str, object], rng: random.Random) -> None:
    whole.pop("mcpServers", None)
    text = written(whole, rng)
    with_ours = insert(text, ("mcpServers",), "cms", ENTRY)
    assert json.loads(with_ours) == json.loads(text) | {"mcpServers": {"cms": ENTRY}}
    assert remove(with_ours, (), "mcpServers") == text


@given(st.dictionaries(keys, values, min_size=1, max_size=5), st.randoms(), st.data())
def test_any_member_can_be_taken_out(
    whole: dict[str, object], rng: random.Random, data: st.DataObject
) -> None:
    text = written(whole, rng)
    key = data.draw(st.sampled_from(sorted(whole)))
    left = json.loads(remove(text, (), key))
    assert left == {name: value for name, value in json.loads(text).items() if name != key}


def test_it_is_written_as_the_rest_is() -> None:
    text = '{\n\t"mcpServers": {\n\t\t"a": {}\n\t}\n}\n'
    assert insert(text, ("mcpServers",), "cms", {"x": [1]}) == (
        '{\n\t"mcpServers": {\n\t\t"a": {},\n\t\t"cms": {\n\t\t\t"x": [\n\t\t\t\t1\n\t\t\t]\n\t\t}\n\t}\n}\n'
    )
    windows = text.replace("\n", "\r\n")
    assert insert(windows, ("mcpServers",), "cms", {"x": [1]}) == (
        insert(text, ("mcpServers",), "cms", {"x": [1]}).replace("\n", "\r\n")
    )
    assert insert('{"mcpServers": {"a": 1}}', ("mcpServers",), "b", 2) == '{"mcpServers": {"a": 1, "b": 2}}'
    assert insert("{}", ("mcpServers",), "b", 2) == '{\n  "mcpServers": {\n    "b": 2\n  }\n}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "1",
        "{",
        '{"a"}',
        '{"a":}',
        '{"a":1,}',
        '{"a":1} x',
        "{'a':1}",
        '{"a" 1}',
        '{"a":1 "b":2}',
        "[" * 5000,
    ],
)
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        insert(text, ("mcpServers",), "cms", 1)


def test_nothing_is_put_in_twice_nor_taken_out_of_nowhere() -> None:
    with pytest.raises(ValueError, match="already"):
        insert('{"a": {"cms": 1}}', ("a",), "cms", 2)
    for text in ('{"a": {}}', "{}"):
        with pytest.raises(ValueError, match="not there"):
            remove(text, ("a",), "cms")
    with pytest.raises(ValueError, match="no JSON object"):
        get('{"mcpServers": []}', ("mcpServers", "cms"))
