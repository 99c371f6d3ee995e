"""From pydantic's errors to faults: where, what, and how to mend it, in the words of the policy language.

Codes are stable: E for errors, W for warnings. ``CODES`` says what each is about; docs/policy.md shows the table.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from outrider.errors import Fault
from outrider.policy.fields import LABEL_NAME, POLICY_NAME, PROBE_ADDRESS, TRUST_DOMAIN, UPSTREAM_NAME, Model
from outrider.policy.strictyaml import Path, Place, show_path

CODES: Mapping[str, str] = {
    "E01": "an unknown key",
    "E02": "a duration, size or rate without a unit",
    "E03": "a key written twice",
    "E05": "retry.maxAttempts out of 1 to 10",
    "E06": "a timeout that can never fire",
    "E07": "a write told to repeat what may have run",
    "E08": "effect keyed without a place for the key",
    "E13": "a fallback that could run an effect twice",
    "E14": "fallbacks that lead in a circle",
    "E15": "a cached fallback, which does not exist yet",
    "E23": "breaker.failureRatio out of 0 to 1",
    "E24": "a breaker that its rate limit keeps from ever opening",
    "E25": "a startup probe with a successThreshold",
    "E27": "two entries that set the same key for the same tools",
    "E29": "an unknown name in a condition",
    "E33": "an upstream that is not defined",
    "E35": "retryAfter.max beyond the total timeout",
    "E36": "a secret written out",
    "E40": "not YAML, or not UTF-8",
    "E41": "a feature of YAML that policies do not use",
    "E42": "too large or too deep",
    "E43": "no policy there",
    "E44": "a value of the wrong type, or an unknown word",
    "E45": "a missing key",
    "E46": "something said in two files",
    "E47": "a name or pattern that is spelled wrong",
    "E48": "a template that is spelled wrong",
    "E49": "a secret or a file that is not there",
    "E50": "a condition that cannot be compiled",
    "E51": "a key that does not fit this kind of upstream",
    "E52": "a number out of range",
    "E53": "keys that contradict each other",
    "E54": "durations that contradict each other",
    "E55": "a fallback to a function of an agent's process",
    "E60": "an algorithm that anybody could forge a token with",
    "E61": "keys of an issuer that cannot be fetched safely, or are none",
    "E62": "an issuer of tokens said twice",
    "W01": "attempts that may not fit into the total timeout",
    "W02": "a tool without an effect",
    "W05": "a tool that is probably misspelled",
    "W06": "no rule that allows anything",
    "W07": "a read with a method that changes things",
    "W08": "connectErrors where it says nothing",
    "W60": "JWTs are taken, and so is the shared token",
    "W09": "a policy that only observes",
}

_WRITTEN_OUT = frozenset({"headers", "query", "body", "url", "static", "value"})
"""Below these keys a secret may have been written out: their values are never repeated in a message."""

_LATER = frozenset(
    {"hedge", "approval", "reconcile", "compensate", "claims", "staleCheck", "onConflict", "merge", "queue"}
    | {"mergeQueue", "mcp", "audit", "escalate"}
)
"""Words of later versions, and of other gateways: no near name would help."""
MIN_TAIL = 3
"""A key longer than this may be the end of the one that was meant: ``queue`` of ``maxQueue``."""
_COUNTS_RETRIES = frozenset({"retries", "maxretries", "numretries"})
_MOVED = {
    "breaker": "a fault domain's: write it in 'domain', or in 'domain' of an upstream",
    "bulkhead": "a fault domain's: write it in 'domain', or in 'domain' of an upstream",
    "retryBudget": "a fault domain's: write it in 'domain', or in 'domain' of an upstream",
    "rateLimits": "a fault domain's: write it in 'domain', or in 'domain' of an upstream",
    "budget": "a fault domain's: write 'domain.retryBudget'",
    "deny": "said by a rule: write 'then: deny' in 'rules'",
    "allow": "said by a rule: write 'then: allow' in 'rules'",
    "effect": "how a rule decides is 'then'; a tool's effect is said in 'tools'",
    "shadow": "said by 'mode: observe'",
    "condition": "a rule's condition is 'when'",
}
_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
}


def translate(model: type[Model], error: ValidationError, file: str, place: Place, base: Path) -> list[Fault]:
    """Every error of one section. ``place`` is where the section stands, ``base`` its path in the document."""
    faults = []
    for detail in error.errors(include_url=False):
        path: Path = tuple(step for step in detail["loc"] if step != "[key]")
        code, message, fix = _words(model, path, detail)
        faults.append(Fault(file, place.line_of(path), show_path((*base, *path)), message, fix, code))
    return faults


def _words(model: type[Model], path: Path, detail: ErrorDetails) -> tuple[str, str, str]:
    kind = detail["type"]
    context = detail.get("ctx") or {}
    if kind == "outrider":
        return str(context["code"]), str(context["message"]), str(context["fix"])
    if kind == "extra_forbidden":
        return unknown_key(_model_at(model, path[:-1]), path, detail["input"])
    if kind == "missing":
        return "E45", f"'{path[-1]}' is missing.", f"write '{path[-1]}: …' here."
    if kind in _TYPES:
        return _wrong_type(kind, path, detail["input"])
    if kind == "literal_error":
        return _wrong_word(context, path, detail["input"])
    if kind in _BOUNDS:
        return _out_of_bounds(kind, context, path, detail["input"])
    return "E44", f"{detail['msg'][:1].lower()}{detail['msg'][1:]}.", "see docs/policy.md."


def unknown_key(model: type[Model] | None, path: Path, value: Any) -> tuple[str, str, str]:
    """Code, message and fix for a key that ``model`` does not know."""
    key = str(path[-1])
    if key == "cached" and "fallback" in path:
        message = "the 'cached' fallback does not exist in this version (when it does, it will need effect: read)."
        return "E15", message, "write '- tool: NAME' or '- static: {value: …}'."
    names = [str(field.alias) for field in model.model_fields.values()] if model else []
    if here := _known_here(key, value, names):
        return "E01", f"unknown key '{key}'.", f"did you mean '{here}'?"
    if _plain(key) in _COUNTS_RETRIES:
        return "E01", f"unknown key '{key}'; this language counts attempts.", f"write {_attempts(value, names)}."
    if key in _LATER:
        return "E01", f"'{key}' does not exist in {_VERSION}.", "remove it."
    if key in _MOVED and key not in names:
        return (
            "E01",
            f"'{key}' does not belong here.",
            f"it is {_MOVED[key]}." if key != "effect" else f"{_MOVED[key]}.",
        )
    return "E01", f"unknown key '{key}'.", _nearest_key(model, key, names)


_VERSION = "outrider.dev/v1alpha1"


def _known_here(key: str, value: Any, names: list[str]) -> str | None:
    """A key of this very place that surely was meant. It comes before every word on what other places know."""
    plain = _plain(key)
    found = [name for name in names if _plain(name).endswith(plain)] if len(plain) > MIN_TAIL else []
    elsewhere = {"retry", "maxAttempts"}.isdisjoint(names)
    if not found and plain in _COUNTS_RETRIES and (isinstance(value, dict) or elsewhere):
        found = difflib.get_close_matches(key, names, n=1, cutoff=0.6)  # a whole section, or a count of another kind
    return found[0] if len(found) == 1 else None


def _attempts(value: Any, names: list[str]) -> str:
    """How a number of retries is said, from where somebody tried to."""
    counted = type(value) is int
    number = str(value + 1) if counted else "…"
    if "maxAttempts" in names:
        said = f"'maxAttempts: {number}'" if counted else "'maxAttempts'"
    else:
        said = f"'retry: {{maxAttempts: {number}}}'"
    where = "" if "maxAttempts" in names or "retry" in names else " in 'tools' or in 'defaults'"
    return f"{said}{where} ({value} retries + the first)" if counted else f"{said}{where}"


def _nearest_key(model: type[Model] | None, key: str, names: list[str]) -> str:
    same = [name for name in names if _plain(name) == _plain(key)]
    near = same or difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    for name, field in (model.model_fields if model else {}).items():
        inner = _model_in(field.annotation)
        if inner and key in (below.alias for below in inner.model_fields.values()):
            return f"write it inside '{field.alias or name}'."
    return f"known here: {', '.join(names)}." if names else "remove it."


def _plain(key: str) -> str:
    return key.replace("_", "").replace("-", "").lower()


def nearest(word: str, known: Iterable[str], cutoff: float = 0.7) -> str | None:
    """The known word that ``word`` was probably meant to be."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def _model_at(model: type[Model] | None, path: Path) -> type[Model] | None:
    """The section that ``path`` leads to below ``model``."""
    for step in path:
        if isinstance(step, int) or model is None:
            continue
        annotation = next((field.annotation for field in model.model_fields.values() if field.alias == step), None)
        model = _model_in(annotation)
    return model


def _model_in(annotation: Any) -> type[Model] | None:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_in(inner))), None)


def _wrong_type(kind: str, path: Path, value: Any) -> tuple[str, str, str]:
    if value is None:
        return "E44", "is empty.", "fill it in, or remove the key."
    instead = f", not {_shown(value, path)}" if _WRITTEN_OUT.isdisjoint(path) else ""
    return "E44", f"must be {_TYPES[kind]}{instead}.", _type_fix(kind, value)


def _type_fix(kind: str, value: Any) -> str:
    if kind == "string_type":
        if isinstance(value, dict) and len(value) == 1 and None in value.values():
            return f'write it in quotes: "{{{next(iter(value))}}}".'
        return "write it in quotes." if not isinstance(value, (dict, list)) else "write text."
    if kind == "bool_type":
        return "write true or false."
    if kind == "list_type":
        return "write a list: [one, two]."
    if kind in {"dict_type", "model_type"}:
        return "write keys with values below it."
    return "write the number without quotes and without a unit."


def _wrong_word(context: Mapping[str, Any], path: Path, value: Any) -> tuple[str, str, str]:
    known = re.findall(r"'([^']*)'", str(context.get("expected", "")))
    allowed = ", ".join(known)
    if value is None:
        return "E44", "is empty.", f"write one of: {allowed}." if len(known) > 1 else f"write {allowed}."
    spelled = {_plain(word): word for word in known}
    text = str(value)
    meant = spelled.get(_plain(text)) or nearest(text, known, 0.6) if isinstance(value, str) else None
    advice = (
        f"did you mean '{meant}'? Known: {allowed}." if meant and len(known) > 1 else f"write {' or '.join(known)}."
    )
    return "E44", f"{_shown(value, path)} is not known here.", advice


def _shown(value: Any, path: Path) -> str:
    """A value as a message may repeat it."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if not _WRITTEN_OUT.isdisjoint(path):
        return "what is written there"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{str(value)[:60]}'"


_FORMS = {
    r"^/": "a path that begins with '/'",
    PROBE_ADDRESS: "HOST:PORT or the word url",
    POLICY_NAME: "a name of letters, digits, '.', '-' and '_'",
    TRUST_DOMAIN: "a trust domain such as prod.example, without spiffe://",
    LABEL_NAME: "a label's name of letters, digits, '.', '-', '_' and '/'",
    UPSTREAM_NAME: "a name of letters, digits, '-' and '_' that begins with a letter",
}

# ── bounds ───────────────────────────────────────────────────────────────────────────────────────────────────────

_BOUNDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than_equal": lambda context: f"at least {context['ge']:g}",
    "greater_than": lambda context: f"above {context['gt']:g}",
    "less_than_equal": lambda context: f"at most {context['le']:g}",
    "less_than": lambda context: f"below {context['lt']:g}",
    "too_short": lambda context: f"at least {context['min_length']} entry",
    "too_long": lambda context: f"at most {context['max_length']} entries",
    "string_too_short": lambda context: f"at least {context['min_length']} character",
    "string_too_long": lambda context: f"at most {context['max_length']} characters",
    "string_pattern_mismatch": lambda context: _FORMS.get(context["pattern"], f"of the form {context['pattern']}"),
}


def _out_of_bounds(kind: str, context: Mapping[str, Any], path: Path, value: Any) -> tuple[str, str, str]:
    key = path[-1] if path else ""
    if key == "maxAttempts":
        fix = "use 1 to disable retries; there is no 'unlimited'."
        return "E05", f"retry.maxAttempts must be 1 to 10, the first attempt included; got {value}.", fix
    if key == "failureRatio":
        share = f"{value / 100:g}" if 1 < value <= 100 else "0.5"
        return "E23", f"breaker.failureRatio must be above 0 and at most 1; got {value}.", f"write {share}."
    bound = _BOUNDS[kind](context)
    if kind == "string_pattern_mismatch":
        return "E47", f"{_shown(value, path)} is not {bound}.", f"write {bound}."
    if isinstance(value, (list, str)):
        return "E52", f"must have {bound}; has {len(value)}.", "change it."
    return "E52", f"must be {bound}; got {value}.", f"write a number that is {bound}."
