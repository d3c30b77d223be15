"""How people write durations, sizes and money, in flags and in the configuration file.

Each function raises ValueError with a message that quotes what was written and says how to write it.
"""

from __future__ import annotations

_TIME_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def parse_seconds(text: str) -> float:
    """`90`, `90s`, `15m`, `2h`, `1d` as seconds.

    Raises:
        ValueError: it is none of these, or not a positive finite number.
    """
    unit = _TIME_UNITS.get(text[-1:].lower(), 0.0)
    try:
        value = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a duration: write 90, 90s, 15m or 2h") from None
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is not a positive duration")
    return value


def parse_money(text: str) -> float:
    """`2`, `0.50`, `$1.25` as US dollars.

    Raises:
        ValueError: it is no number, or not a positive finite one.
    """
    try:
        value = float(text.removeprefix("$"))
    except ValueError:
        raise ValueError(f"{text!r} is not an amount in US dollars: write 2 or 0.50") from None
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is not a positive amount in US dollars")
    return value


def parse_count(text: str) -> int:
    """A positive whole number.

    Raises:
        ValueError: it is not.
    """
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None
    if value < 1:
        raise ValueError(f"{text!r} is not positive: the least is 1")
    return value


def parse_size(text: str) -> int:
    """`2G`, `512M`, `1048576` as bytes.

    Raises:
        ValueError: it is none of these, or not positive.
    """
    digits = text.upper().removesuffix("B").removesuffix("I")
    unit = _SIZE_UNITS.get(digits[-1:], 0)
    try:
        value = float(digits[:-1]) * unit if unit else float(digits)
    except ValueError:
        raise ValueError(f"{text!r} is not a size: write 512M or 2G") from None
    if not 1 <= value < 2**63:
        raise ValueError(f"{text!r} is not a positive size")
    return int(value)
