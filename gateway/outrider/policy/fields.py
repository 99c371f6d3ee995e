"""The kinds of values a policy holds: quantities with a unit, patterns, words. Each refuses with its own words.

``schema`` builds the document out of these. An error raised here carries code, message and fix to ``faults`` unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from outrider.policy.patterns import pattern_fault
from outrider.policy.units import (
    DURATION_PATTERN,
    RATE_PATTERN,
    SIZE_PATTERN,
    format_duration,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
)
from outrider.redaction import parse_path

POLICY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
PROBE_ADDRESS = r"^(url|[^/\s]+:[0-9]{1,5})$"
UPSTREAM_NAME = r"^[A-Za-z][A-Za-z0-9_-]{0,62}$"
TRUST_DOMAIN = r"^[a-z0-9._-]{1,255}$"
LABEL_NAME = r"^[A-Za-z0-9_./-]{1,63}$"
RETRY_WORDS = ("not_executed", "reset", "timeout", "protocol", "raised")
"""The failures that ``retryOn`` may name, besides statuses and exceptions; see ``calls.Reason``."""
FRAMING_HEADERS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "keep-alive", "expect"}
)
"""What frames the message: the HTTP client writes these itself."""

_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?")
_RETRY_ON = re.compile(r"http-[45](xx|[0-9]{2})|[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+|[A-Z][A-Za-z0-9_]*")
_RENAMED = {
    "not-executed": "not_executed",
    "connect": "not_executed",
    "connect-failure": "not_executed",
    "agent_gone": "not_executed",
    "not_started": "not_executed",
    "status": "http-5xx",
    "5xx": "http-5xx",
}
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")


def fault(code: str, message: str, fix: str = "") -> PydanticCustomError:
    """An error in our own words, to be raised by a validator."""
    return PydanticCustomError("outrider", "{message}", {"code": code, "message": message, "fix": fix})


class Model(BaseModel):
    """Root of all sections: strict types, unknown keys refused, keys likeThis."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel)

    def said(self) -> dict[str, Any]:
        """What the text says, by the keys as they are written; defaults are not among it."""
        fields = type(self).model_fields
        return {str(fields[name].alias): getattr(self, name) for name in fields if name in self.model_fields_set}


def default(value: Any, text: str, shown: Any = None, **bounds: Any) -> Any:
    """A field with a default. ``shown`` is how a person writes that default."""
    extra = {"default": value if shown is None else shown}
    return Field(default=value, description=text, json_schema_extra=extra, **bounds)


def lasting(seconds: float, text: str) -> Any:
    """A duration with a default."""
    return default(seconds, text, format_duration(seconds))


def optional(text: str, **bounds: Any) -> Any:
    """A field that may be left out. An explicit null is refused like any other wrong type."""
    return Field(default=None, description=text, json_schema_extra=_drop_default, **bounds)


def _drop_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


def exactly_one(*names: str) -> ConfigDict:
    """What tells an editor that one of these keys, and only one, is written."""
    return ConfigDict(json_schema_extra={"oneOf": [{"required": [name]} for name in names]})


# ── quantities ───────────────────────────────────────────────────────────────────────────────────────────────────


def _quantity(value: Any, parse: Callable[[str], Any], what: str, example: str, meant: Callable[[str], str]) -> Any:
    """``meant`` gives what a text without a unit, or with a fraction or a space, was probably meant to be."""
    if isinstance(value, str):
        parsed = parse(value)
        if parsed is not None:
            return parsed
    if isinstance(value, (dict, list, bool)) or value is None:
        raise fault("E44", f"must be a {what}.", f"write for example {example}.")
    shown = str(value)[:40]
    advice = meant(shown.replace(" ", ""))
    if _NUMBER.fullmatch(shown):
        raise fault("E02", f"{what} '{shown}' has no unit.", f"write {advice}.")
    raise fault("E02", f"'{shown}' is not a {what}.", f"write {advice or f'for example {example}'}.")


def _meant_duration(text: str) -> str:
    if _NUMBER.fullmatch(text):
        return f"'{text}s' or '{text}ms'" if "." not in text else f"'{format_duration(float(text))}'"
    fraction = re.fullmatch(r"([0-9]{1,5}\.[0-9]{1,3})(h|m|s)", text)
    if fraction:
        seconds = float(fraction[1]) * {"h": 3600, "m": 60, "s": 1}[fraction[2]]
        return f"'{format_duration(seconds)}'"
    return f"'{text}'" if parse_duration(text) is not None else ""


def _meant_size(text: str) -> str:
    if text.isdecimal() and text.isascii():
        return f"'{format_size(int(text))}'"
    return f"'{text}'" if parse_size(text) is not None else ""


def _meant_rate(text: str) -> str:
    return f"'{text}/s' or '{text}/m'" if _NUMBER.fullmatch(text) else ""


def _duration(value: Any) -> Any:
    return _quantity(value, parse_duration, "duration", "5s", _meant_duration)


def _positive_duration(value: Any) -> Any:
    seconds = _duration(value)
    if seconds <= 0:
        raise fault("E52", "must be longer than zero.", "write for example 5s.")
    return seconds


def _size(value: Any) -> Any:
    return _quantity(value, parse_size, "size", "1MiB", _meant_size)


def _rate(value: Any) -> Any:
    rate = _quantity(value, parse_rate, "rate", "20/s", _meant_rate)
    if rate <= 0:
        raise fault("E52", "a rate must be above zero.", "to forbid a tool, write a rule with then: deny.")
    return rate


def _text_schema(pattern: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": list(examples)})


_DURATION_SCHEMA = _text_schema(DURATION_PATTERN, "500ms", "30s", "1m30s")
Duration = Annotated[float, BeforeValidator(_duration), _DURATION_SCHEMA]
PositiveDuration = Annotated[float, BeforeValidator(_positive_duration), _DURATION_SCHEMA]
Size = Annotated[int, BeforeValidator(_size), _text_schema(SIZE_PATTERN, "64KiB", "1MiB")]
Rate = Annotated[float, BeforeValidator(_rate), _text_schema(RATE_PATTERN, "20/s", "30/m")]


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pattern(value: Any) -> Any:
    wrong = pattern_fault(value) if isinstance(value, str) else None
    if wrong is not None:
        raise fault("E47", f"'{value[:60]}': {wrong}.", "write an exact name, or a prefix such as 'ledger.get_*'.")
    return value


def _tool_pattern(value: Any) -> Any:
    _pattern(value)
    if isinstance(value, str) and not value.endswith("*") and "." not in value.strip("."):
        raise fault(
            "E47",
            f"'{value[:60]}' is not a tool's name: a tool is UPSTREAM.OPERATION.",
            f"write 'local.{value[:60]}' for an in-process function.",
        )
    return value


def _tool_name(value: Any) -> Any:
    _tool_pattern(value)
    if isinstance(value, str) and value.endswith("*"):
        raise fault("E47", f"'{value[:60]}' is a pattern; this needs one tool.", "write one tool's exact name.")
    return value


def _retry_word(value: Any) -> Any:
    if not isinstance(value, str) or value in RETRY_WORDS or (_RETRY_ON.fullmatch(value) and value not in _RENAMED):
        return value
    known = f"known are {', '.join(RETRY_WORDS)}, http-503, http-5xx, and qualified names of exceptions."
    meant = _RENAMED.get(value, f"http-{value}" if re.fullmatch(r"[45][0-9]{2}", value) else "")
    advice = f"write {meant}; {known}" if meant else known
    raise fault("E44", f"'{value[:60]}' is not a kind of failure.", advice)


def _redact_path(value: Any) -> Any:
    if isinstance(value, str):
        try:
            parse_path(value)
        except ValueError as error:
            advice = "write a path such as $.args.iban or $.result.items[*].secret."
            raise fault("E48", f"{error}.", advice) from None
    return value


def _header_name(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not _HEADER.fullmatch(value):
        raise fault("E44", f"'{value[:60]}' is not the name of a header.", "use letters, digits and '-'.")
    if value.lower() in FRAMING_HEADERS:
        raise fault("E44", f"the header '{value}' is written by Outrider itself.", "remove it.")
    return value


Pattern = Annotated[str, BeforeValidator(_pattern)]
ToolPattern = Annotated[str, BeforeValidator(_tool_pattern)]
ToolName = Annotated[str, BeforeValidator(_tool_name)]
RetryWord = Annotated[str, BeforeValidator(_retry_word)]
RedactPath = Annotated[str, BeforeValidator(_redact_path)]
HeaderName = Annotated[str, BeforeValidator(_header_name)]
Text = Annotated[str, Field(min_length=1, max_length=500)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
