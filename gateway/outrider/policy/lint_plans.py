"""What is wrong with how tools are called: checks over the layers of each entry, merged.

An entry is judged together with everything that also applies to all of its tools. A fault is told at the entry that
brought it about: where nothing of this entry takes part, another entry already told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from outrider.errors import Fault
from outrider.policy import plans
from outrider.policy.layers import Keys, Layer, Layers, Leaf, merged
from outrider.policy.patterns import is_prefix
from outrider.policy.strictyaml import Path
from outrider.policy.units import format_duration

TOTAL: Keys = ("timeouts", "total")
PER_TRY: Keys = ("timeouts", "perTry")
CONNECT: Keys = ("timeouts", "connect")
ATTEMPTS: Keys = ("retry", "maxAttempts")
RETRY_ON: Keys = ("retry", "retryOn")
RETRY_AFTER: Keys = ("retry", "retryAfter", "max")
INITIAL: Keys = ("retry", "backoff", "initial")
MULTIPLIER: Keys = ("retry", "backoff", "multiplier")
BACKOFF_MAX: Keys = ("retry", "backoff", "max")
SEND: Keys = ("idempotency", "send")
FALLBACK: Keys = ("fallback",)
METHOD: Keys = ("http", "method")
BODY: Keys = ("http", "body")
EFFECT: Keys = ("effect",)
CONNECT_ERRORS: Keys = ("connectErrors",)
_OF_FUNCTIONS = frozenset({("placement",), ("composite",), CONNECT_ERRORS})

_TIMEOUTS = plans.Timeouts()
_RETRY = plans.Retry()
_DEFAULTS: Mapping[Keys, Any] = {
    TOTAL: _TIMEOUTS.total_s,
    PER_TRY: _TIMEOUTS.per_try_s,
    CONNECT: _TIMEOUTS.connect_s,
    ATTEMPTS: _RETRY.max_attempts,
    INITIAL: _RETRY.initial_s,
    MULTIPLIER: _RETRY.multiplier,
    BACKOFF_MAX: _RETRY.max_s,
    EFFECT: "write",
}
_SAFE_FOR_WRITE = frozenset({"not_executed", "http-425", "http-429"})


class _Entry:
    """One entry with what applies to it. ``said`` keys are those that some file says."""

    def __init__(self, layer: Layer, leaves: Mapping[Keys, Leaf], upstream: plans.Upstream | None) -> None:
        assert layer.item is not None
        self.layer = layer
        self.item = layer.item
        self.leaves = leaves
        self.upstream = upstream  # None where its tools have several, or an unknown one

    @property
    def in_process(self) -> bool:
        return self.upstream is not None and self.upstream.name == "local"

    @property
    def over_http(self) -> bool:
        return self.upstream is not None and self.upstream.name != "local"

    def value(self, keys: Keys) -> Any:
        leaf = self.leaves.get(keys)
        return _DEFAULTS.get(keys) if leaf is None else leaf.value

    def own(self, *candidates: Keys) -> Leaf | None:
        """The first of these that this entry itself says."""
        return next((self.layer.leaves[keys] for keys in candidates if keys in self.layer.leaves), None)

    def said(self, *needed: Keys) -> bool:
        return all(keys in self.leaves for keys in needed)

    def shown(self, keys: Keys) -> str:
        """``timeouts.total (30s)``, with its place where another entry says it."""
        leaf = self.leaves.get(keys)
        other = "" if leaf is None or leaf.item is self.item else f", {leaf.where}"
        return f"{'.'.join(keys)} ({format_duration(self.value(keys))}{other})"

    def fault(self, leaf: Leaf, code: str, message: str, fix: str) -> Fault:
        return leaf.item.fault(leaf.keys, code, message, fix)


def check_plans(layers: Layers, known: Mapping[str, plans.Upstream]) -> Iterator[Fault]:
    """Faults of ``defaults`` and of each entry of ``tools``: E06 to E08, E13, E35, E51, E53, E54, W01, W02, W07."""
    entries = [layers.defaults] if layers.defaults.item is not None else []
    for layer in entries + layers.entries:
        together = layers.covering(layer.pattern) if layer.pattern else [layer]
        if not all(other.whole for other in together):
            continue
        leaves = merged(other.leaves for other in together)
        group, dot, _ = layer.pattern.partition(".")
        entry = _Entry(layer, leaves, known.get(group) if dot else None)
        for check in _CHECKS:
            yield from check(entry)


def _per_try(entry: _Entry) -> Iterator[Fault]:
    """Where an entry only shortens the longer one, an inherited shorter one is cut by it, which is no mistake."""
    for shorter, longer in ((PER_TRY, TOTAL), (CONNECT, PER_TRY)):
        at = entry.own(shorter)
        if at is not None and entry.value(shorter) >= entry.value(longer):
            message = f"{entry.shown(shorter)} must be less than {entry.shown(longer)}; it would never fire."
            yield entry.fault(at, "E06", message, f"shorten {'.'.join(shorter)} or lengthen {'.'.join(longer)}.")


def _retry_after(entry: _Entry) -> Iterator[Fault]:
    at = entry.own(RETRY_AFTER)
    if at is not None and entry.value(RETRY_AFTER) > entry.value(TOTAL):
        message = f"{entry.shown(RETRY_AFTER)} is longer than {entry.shown(TOTAL)}."
        yield entry.fault(at, "E35", message, "shorten retry.retryAfter.max: such a wait can never be met.")


def _backoff(entry: _Entry) -> Iterator[Fault]:
    at = entry.own(INITIAL, BACKOFF_MAX)
    if at is not None and entry.value(INITIAL) > entry.value(BACKOFF_MAX):
        message = f"{entry.shown(INITIAL)} is longer than {entry.shown(BACKOFF_MAX)}."
        yield entry.fault(at, "E54", message, "shorten backoff.initial or lengthen backoff.max.")


def worst_case_s(entry: _Entry) -> float:
    """The longest that all attempts and the waits between them can take, in seconds."""
    attempts = entry.value(ATTEMPTS)
    waits = (
        min(entry.value(BACKOFF_MAX), entry.value(INITIAL) * entry.value(MULTIPLIER) ** retry)
        for retry in range(attempts - 1)
    )
    return float(attempts * entry.value(PER_TRY) + sum(waits))


def _fits(entry: _Entry) -> Iterator[Fault]:
    at = entry.own(ATTEMPTS, PER_TRY, TOTAL, INITIAL, BACKOFF_MAX)
    clear_mistake = entry.own(PER_TRY) and entry.value(PER_TRY) >= entry.value(TOTAL)  # E06
    if at is None or clear_mistake or not entry.said(PER_TRY):
        return
    worst = worst_case_s(entry)
    if worst > entry.value(TOTAL):
        message = (
            f"{_counted(entry.value(ATTEMPTS))} of {entry.shown(PER_TRY)} with the worst backoff can take "
            f"{format_duration(worst)}, longer than {entry.shown(TOTAL)}: the last attempt can be cut short."
        )
        yield entry.fault(at, "W01", message, "lower retry.maxAttempts or timeouts.perTry, or lengthen timeouts.total.")


def _counted(attempts: int) -> str:
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"


def _write_repeats(entry: _Entry) -> Iterator[Fault]:
    leaf = entry.own(RETRY_ON)
    if leaf is None or not entry.layer.pattern or entry.value(EFFECT) != "write":
        return
    safe = entry.upstream.http.safe_statuses if entry.upstream and entry.upstream.http else ()
    allowed = _SAFE_FOR_WRITE | {f"http-{status}" for status in safe}
    ambiguous = [word for word in leaf.value if word not in allowed]
    if ambiguous:
        words = ", ".join(f"'{word}'" for word in ambiguous)
        message = f"effect 'write' cannot be repeated after failures that may have run: {words}."
        fix = "remove them from this retryOn, or set effect: keyed with idempotency.send if the upstream deduplicates."
        yield entry.fault(leaf, "E07", message, fix)


def _key(entry: _Entry) -> Iterator[Fault]:
    at = entry.own(EFFECT, SEND)
    if at is None or entry.value(EFFECT) != "keyed":
        yield from _key_for_nothing(entry)
    elif not entry.said(SEND):
        message = "effect 'keyed' needs idempotency.send, so that the upstream sees the key."
        yield entry.fault(at, "E08", message, "write 'idempotency: {send: {header: Idempotency-Key}}'.")
    elif entry.in_process and entry.value(SEND).header is not None:
        message = "effect 'keyed' needs idempotency.send.argument here: a function has no headers."
        yield entry.fault(at, "E08", message, "write 'idempotency: {send: {argument: idempotency_key}}'.")


def _key_for_nothing(entry: _Entry) -> Iterator[Fault]:
    send = entry.own(SEND)
    if send is not None and entry.layer.pattern and not is_prefix(entry.layer.pattern):
        message = f"idempotency.send says where a key goes, but effect '{entry.value(EFFECT)}' sends none."
        yield entry.fault(send, "E53", message, "set effect: keyed, or remove idempotency.")


def _no_effect(entry: _Entry) -> Iterator[Fault]:
    if entry.layer.pattern and not entry.said(EFFECT):
        message = (
            f"'{entry.layer.pattern}' has no effect; treated as write, which is not repeated once it may have run."
        )
        yield entry.item.fault(("match",), "W02", message, "say effect: read, idempotent, keyed or write.")


def _fallback_safety(entry: _Entry) -> Iterator[Fault]:
    leaf = entry.leaves.get(FALLBACK)
    at = entry.own(FALLBACK) or entry.own(EFFECT)
    effect = entry.value(EFFECT)
    if leaf is None or at is None or effect not in {"write", "keyed"}:
        return
    for index, way in enumerate(leaf.value):
        said = way.said()
        if "onlyIf" in said or ("static" in said and effect == "keyed"):
            continue
        keys: Path = (*leaf.keys, index) if leaf is at else at.keys
        message = (
            f"a fallback for effect '{effect}' must say onlyIf: not_executed; otherwise a call that may have run "
            "could run twice."
            if "tool" in said
            else "a fallback for effect 'write' must say onlyIf: not_executed; otherwise a call that may have run "
            "would look as if it had not."
        )
        yield at.item.fault(keys, "E13", message, "add 'onlyIf: not_executed' to it.")


def _kind_of_upstream(entry: _Entry) -> Iterator[Fault]:
    """Keys that only fit tools over HTTP, or only tools in an agent's process."""
    for keys, leaf in entry.layer.leaves.items():
        wants_http = keys[0] == "http" and not entry.over_http
        wants_process = keys in _OF_FUNCTIONS and not entry.in_process
        if entry.layer.pattern and (wants_http or wants_process):
            message = f"'{'.'.join(keys)}' does not fit here: {_told(entry)}."
            yield entry.fault(leaf, "E51", message, "remove it, or write it in an entry that names such an upstream.")


def _nothing_to_doubt(entry: _Entry) -> Iterator[Fault]:
    at = entry.own(CONNECT_ERRORS)
    effect = entry.value(EFFECT)
    if at is not None and entry.said(CONNECT_ERRORS) and effect in {"read", "idempotent"}:
        message = f"connectErrors says nothing for effect '{effect}': it is repeated whatever ran before."
        yield entry.fault(at, "W08", message, "remove it, or say the effect that the function has.")


def _told(entry: _Entry) -> str:
    if entry.in_process:
        return "tools of 'local' are functions, not requests"
    if entry.over_http and entry.upstream is not None:
        return f"tools of '{entry.upstream.name}' are requests, not functions"
    return f"'{entry.layer.pattern}' does not name one upstream"


def _read_that_writes(entry: _Entry) -> Iterator[Fault]:
    at = entry.own(METHOD, EFFECT)
    if at is not None and entry.value(EFFECT) == "read" and entry.value(METHOD) in {"PUT", "PATCH", "DELETE"}:
        message = f"effect 'read' with method {entry.value(METHOD)}: a read changes nothing and is repeated at will."
        yield entry.fault(at, "W07", message, "set effect: idempotent, keyed or write, or another method.")


def _body(entry: _Entry) -> Iterator[Fault]:
    at = entry.own(BODY, METHOD)
    if at is not None and entry.said(BODY) and entry.value(METHOD) in {"GET", "HEAD"}:
        message = f"a body with method {entry.value(METHOD)}."
        yield entry.fault(at, "E53", message, "remove http.body, or use http.query.")


def _bulkhead_wait(entry: _Entry) -> Iterator[Fault]:
    at = entry.own(TOTAL)
    if at is None or entry.upstream is None:
        return
    wait = entry.upstream.domain.bulkhead.max_wait_s
    if wait >= entry.value(TOTAL) and wait != plans.Bulkhead().max_wait_s:
        message = (
            f"{entry.shown(TOTAL)} is not longer than bulkhead.maxWait ({format_duration(wait)}) of "
            f"'{entry.upstream.name}': a call can spend its whole time in the queue."
        )
        yield entry.fault(at, "E54", message, "shorten bulkhead.maxWait or lengthen timeouts.total.")


_CHECKS = (
    _per_try,
    _retry_after,
    _backoff,
    _fits,
    _write_repeats,
    _key,
    _no_effect,
    _fallback_safety,
    _kind_of_upstream,
    _nothing_to_doubt,
    _read_that_writes,
    _body,
    _bulkhead_wait,
)
