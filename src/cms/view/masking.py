"""Secrets taken out of what is written into files for others: known ones, and what looks like one.

An export of a CI run is read by more people than the machine that made it. What an agent printed is in it;
this takes out the values of secret variables of this very environment, and what has the shape of a well-known
key. Other secrets have no shape: it helps, and promises nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

MARK: Final = "[secret]"
#: Variables whose values are secret, by their names; shorter values are words that stand anywhere.
_NAMES: Final = re.compile(r"KEY|TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|AUTH", re.IGNORECASE)
_SHORTEST: Final = 8
_SHAPES: Final = re.compile(
    r"sk-[A-Za-z0-9_-]{20,}"  # Anthropic, OpenAI, Stripe
    r"|(?:gh[pousr]|glpat|github_pat)[_-][A-Za-z0-9_-]{16,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\bxox[abeprs]-[A-Za-z0-9-]{10,}"
    r"|\bAIza[A-Za-z0-9_-]{35}\b"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{5,}"  # JSON Web Tokens
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<=://)[^/\s:@]+:[^/\s:@]+(?=@)"  # the user and password of a URL
    r"|(?i:(?<=bearer ))[A-Za-z0-9._~+/=-]{16,}",
    re.DOTALL,
)


class Mask:
    """Takes secrets out of values that are to be JSON."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        known = {value for name, value in environ.items() if _NAMES.search(name) and len(value) >= _SHORTEST}
        # The longest first: one may be the beginning of another.
        words = "|".join(re.escape(value) for value in sorted(known, key=len, reverse=True))
        self._known = re.compile(words) if words else None

    def text(self, text: str) -> str:
        """A text without them."""
        if self._known is not None:
            text = self._known.sub(MARK, text)
        return _SHAPES.sub(MARK, text)

    def value(self, value: object) -> object:
        """A value of texts, numbers, lists and dicts without them."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list | tuple):
            return [self.value(one) for one in value]
        if isinstance(value, dict):
            return {key: self.value(one) for key, one in value.items()}
        return value
