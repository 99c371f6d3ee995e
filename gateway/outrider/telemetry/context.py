"""The trace context that travels with a call: ``traceparent`` and ``tracestate`` (W3C Trace Context)."""

from __future__ import annotations

import random
import re
from typing import Final

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
MAX_TRACESTATE_CHARS: Final = 512
"""What the standard asks everybody to carry; a longer one may be left out."""
SAMPLED: Final = "01"
UNSAMPLED: Final = "00"


def traceparent_from(text: str) -> str:
    """A caller's ``traceparent`` where it is one (section 3.2), else nothing: it is sent on as a header, and what is
    malformed is to be ignored."""
    return text if text and _TRACEPARENT.fullmatch(text) else ""


def tracestate_from(traceparent: str, text: str) -> str:
    """A caller's ``tracestate``; none without the ``traceparent`` that it belongs to (section 3.3)."""
    if not (traceparent and text) or len(text) > MAX_TRACESTATE_CHARS:
        return ""
    return text if _TRACESTATE.fullmatch(text) else ""


def header(trace_id: str, span_id: str, flags: str) -> str:
    """``traceparent``."""
    return f"00-{trace_id}-{span_id}-{flags}"


def new_trace_id() -> str:
    """32 hexadecimal digits, never all zero."""
    return f"{random.getrandbits(128) or 1:032x}"


def new_span_id() -> str:
    """16 hexadecimal digits, never all zero."""
    return f"{random.getrandbits(64) or 1:016x}"
