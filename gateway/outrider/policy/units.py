"""Quantities of the policy language: durations, sizes and rates are text with a unit, so that no number is ambiguous.

Durations follow GEP-2257, the Kubernetes Gateway API's subset of Go's: one to four parts of up to five digits and
``h``, ``m``, ``s`` or ``ms``.
"""

from __future__ import annotations

import re

DURATION_PATTERN = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"
SIZE_PATTERN = r"^[0-9]{1,9}(B|kB|MB|GB|KiB|MiB|GiB)$"
RATE_PATTERN = r"^[0-9]{1,6}(\.[0-9]{1,3})?/(s|m)$"

_DURATION = re.compile(DURATION_PATTERN)
_PART = re.compile(r"([0-9]+)(ms|h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_SIZE = re.compile(r"([0-9]{1,9})(B|kB|MB|GB|KiB|MiB|GiB)")
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_RATE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)/(s|m)")


def parse_duration(text: str) -> float | None:
    """Seconds of ``1m30s``; None where the text is not a duration."""
    if not _DURATION.fullmatch(text):
        return None
    milliseconds = sum(round(int(digits) * _SECONDS[unit] * 1000) for digits, unit in _PART.findall(text))
    return milliseconds / 1000


def format_duration(seconds: float) -> str:
    """The shortest spelling: 90.0 is ``1m30s``, 0.2 is ``200ms``."""
    rest = round(seconds * 1000)
    if rest == 0:
        return "0s"
    parts = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def parse_size(text: str) -> int | None:
    """Bytes of ``1MiB``; None where the text is not a size."""
    found = _SIZE.fullmatch(text)
    return int(found[1]) * _BYTES[found[2]] if found else None


def format_size(count: int) -> str:
    """The largest binary unit that divides it: 1048576 is ``1MiB``."""
    for unit in ("GiB", "MiB", "KiB"):
        if count and count % _BYTES[unit] == 0:
            return f"{count // _BYTES[unit]}{unit}"
    return f"{count}B"


def parse_rate(text: str) -> float | None:
    """Calls per second of ``20/s`` or ``30/m``; None where the text is not a rate."""
    found = _RATE.fullmatch(text)
    if not found:
        return None
    return float(found[1]) / (60.0 if found[2] == "m" else 1.0)
