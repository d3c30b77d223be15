from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.view.masking import MARK, Mask

ENV = {
    "ANTHROPIC_API_KEY": "correct horse battery",
    "PATH": "/usr/bin:/bin",
    "SHORT_KEY": "abc",
    "MY_TOKEN": "t0p-s3cret!",
}


@pytest.mark.parametrize(
    "secret",
    [
        "correct horse battery",
        "t0p-s3cret!",
        "sk-ant-api03-abcdefghijklmnopqrstuvwx",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "github_pat_11ABCDEFG0abcdefghijkl",
        "AKIAIOSFODNN7EXAMPLE",
        "xoxb-123456789012-abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc123def",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----",
        "user:pa55word",
    ],
)
def test_a_secret_is_taken_out_wherever_it_stands(secret: str) -> None:
    mask = Mask(ENV)
    text = f"https://{secret}@host/" if secret.startswith("user:") else f"it is {secret}\nindeed"
    found = mask.value({"a": [{"b": text}, 1, None, 2.5]})
    assert secret not in str(found)
    assert MARK in str(found)


def test_what_is_no_secret_stays() -> None:
    text = "PATH is /usr/bin:/bin, abc, https://host/a:b@c, task-sk-1, the bearer of this"
    assert Mask(ENV).text(text) == text


@given(st.text())
def test_any_text_is_taken(text: str) -> None:
    told = Mask({"A_TOKEN": text}).text(f"<{text}>")
    assert told == (f"<{MARK}>" if len(text) >= 8 else Mask({}).text(f"<{text}>"))
