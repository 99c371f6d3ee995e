"""The standard ``OTEL_*`` variables: what is exported, where to, and how much of it.

Off unless asked for: a signal is exported where its exporter says ``otlp``, or where an endpoint is named and its
exporter says nothing. The specification has a wrong value warned of and ignored; here a sidecar does not start with one
and says all of them at once, as with every other setting: a sampler that was misspelt would trace everything.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and …/protocol/exporter/
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from outrider.errors import Fault, Misconfigured

Signal = Literal["traces", "metrics"]
Protocol = Literal["http/protobuf", "grpc"]
SAMPLERS: Final = ("always_on", "always_off", "traceidratio",
                   "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio")  # fmt: skip
CONTENT: Final = {
    "true": True, "span_only": True, "span_and_event": True, "false": False, "no_content": False, "event_only": False,
}  # fmt: skip
"""``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT``: its old words and its new ones."""
FILES: Final = ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")


@dataclass(frozen=True, slots=True)
class Sampler:
    """Which calls are traced. ``ratio`` is of those without a parent, or of all where the parent is not asked."""

    ratio: float = 1.0
    asks_parent: bool = True


@dataclass(frozen=True, slots=True)
class Target:
    """Where one signal goes."""

    endpoint: str
    protocol: Protocol = "http/protobuf"
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Exports:
    """What ``serve`` was told about OpenTelemetry. None: that signal is off."""

    traces: Target | None = None
    metrics: Target | None = None
    sampler: Sampler = Sampler()
    content: bool = False
    interval_s: float = 60.0
    schedule_s: float = 5.0
    max_queue: int = 2048
    max_batch: int = 512

    @property
    def off(self) -> bool:
        return self.traces is None and self.metrics is None


def exports_of(environ: Mapping[str, str]) -> Exports:
    """What the environment asks for. Raises Misconfigured with everything that is wrong."""
    read = _Reader({name: value.strip() for name, value in environ.items() if name.startswith("OTEL_")})
    disabled = read.one_of("OTEL_SDK_DISABLED", ("true", "false"), "false") == "true"
    found = Exports() if disabled else _exports(read)
    if read.faults:
        raise Misconfigured([Fault("", 0, "", fault) for fault in read.faults])
    return found


def _exports(read: _Reader) -> Exports:
    traces, metrics = _target(read, "traces"), _target(read, "metrics")
    if traces is None and metrics is None:
        return Exports()
    batch = read.whole("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)
    queue = read.whole("OTEL_BSP_MAX_QUEUE_SIZE", 2048)
    if batch > queue:
        read.fault(f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE is {batch}, more than OTEL_BSP_MAX_QUEUE_SIZE with {queue}.")
    content = read.one_of("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", tuple(CONTENT), "false")
    return Exports(
        traces=traces,
        metrics=metrics,
        sampler=_sampler(read),
        content=CONTENT[content],
        interval_s=read.whole("OTEL_METRIC_EXPORT_INTERVAL", 60_000) / 1000,
        schedule_s=read.whole("OTEL_BSP_SCHEDULE_DELAY", 5000) / 1000,
        max_queue=queue,
        max_batch=batch,
    )


def _target(read: _Reader, signal: Signal) -> Target | None:
    named = read.of_signal(signal, "ENDPOINT")
    words = [word.strip().lower() for word in read.text(f"OTEL_{signal.upper()}_EXPORTER").split(",") if word.strip()]
    for word in words:
        if word not in {"otlp", "none"}:
            read.fault(f"OTEL_{signal.upper()}_EXPORTER names '{word[:40]}'; this sidecar knows otlp and none.")
    if (words and "otlp" not in words) or not (words or named[1]):
        return None
    protocol = _protocol(read, signal)
    _check_files(read, signal)
    timeout_ms = read.whole(read.of_signal(signal, "TIMEOUT")[0], 10_000)
    return Target(_endpoint(read, signal, protocol), protocol, timeout_ms / 1000)


def _protocol(read: _Reader, signal: Signal) -> Protocol:
    name, _ = read.of_signal(signal, "PROTOCOL")
    if read.one_of(name, ("http/protobuf", "grpc"), "http/protobuf") == "http/protobuf":
        return "http/protobuf"
    from importlib.util import find_spec  # only where somebody asks for it

    try:
        there = find_spec("opentelemetry.exporter.otlp.proto.grpc") is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        read.fault(
            f"{name} is grpc, and its exporter is not installed. Write http/protobuf (port 4318), "
            "or: pip install opentelemetry-exporter-otlp-proto-grpc"
        )
    return "grpc"


def _endpoint(read: _Reader, signal: Signal, protocol: Protocol) -> str:
    """The whole address: a signal's own is taken as it is, below the general one it has its path."""
    name, value = read.of_signal(signal, "ENDPOINT")
    grpc = protocol == "grpc"
    url = value or ("http://localhost:4317" if grpc else "http://localhost:4318")
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        read.fault(f"{name} '{shown(url)[:100]}' is not an address. Write for example http://127.0.0.1:4318.")
    own = name == f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    return url if own or grpc else f"{url.rstrip('/')}/v1/{signal}"


def shown(url: str) -> str:
    """Without the user and password that an address may hold."""
    before, at, rest = url.rpartition("@")
    return f"{before.partition('://')[0]}://{rest}" if at else url


def _check_files(read: _Reader, signal: Signal) -> None:
    for what in FILES:
        name, value = read.of_signal(signal, what)
        if value and not Path(value).is_file():
            read.fault(f"{name} names {value}, and there is no such file.")
    name, _ = read.of_signal(signal, "COMPRESSION")
    read.one_of(name, ("none", "gzip", "deflate"), "none")


def _sampler(read: _Reader) -> Sampler:
    name = read.one_of("OTEL_TRACES_SAMPLER", SAMPLERS, "parentbased_always_on")
    asks_parent = name.startswith("parentbased_")
    kind = name.removeprefix("parentbased_")
    if kind != "traceidratio":
        return Sampler(1.0 if kind == "always_on" else 0.0, asks_parent)
    return Sampler(read.share("OTEL_TRACES_SAMPLER_ARG", 1.0), asks_parent)


class _Reader:
    """Variables as values; what is wrong is gathered. An empty variable counts as one that is not set."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.faults: list[str] = []

    def fault(self, text: str) -> None:
        if text not in self.faults:
            self.faults.append(text)

    def text(self, name: str) -> str:
        return self._values.get(name, "")

    def of_signal(self, signal: Signal, what: str) -> tuple[str, str]:
        """Name and value: the signal's own variable, or else the one for all signals."""
        own, general = f"OTEL_EXPORTER_OTLP_{signal.upper()}_{what}", f"OTEL_EXPORTER_OTLP_{what}"
        return (own, self.text(own)) if self.text(own) else (general, self.text(general))

    def one_of(self, name: str, words: tuple[str, ...], default: str) -> str:
        value = self.text(name).lower() or default
        if value not in words:
            self.fault(f"{name} is '{value[:40]}'; it may be {', '.join(words[:-1])} or {words[-1]}.")
            return default
        return value

    def whole(self, name: str, default: int) -> int:
        """A whole number above zero."""
        value = self.text(name)
        if not value:
            return default
        digits = value.lstrip("0") if value.isascii() and value.isdigit() else ""
        if not digits or len(digits) > 9:
            self.fault(f"{name} is '{value[:40]}'; write a whole number from 1 to 999999999.")
            return default
        return int(digits)

    def share(self, name: str, default: float) -> float:
        value = self.text(name)
        if not value:
            return default
        try:
            found = float(value)
        except ValueError:
            found = math.nan
        if not 0.0 <= found <= 1.0:
            self.fault(f"{name} is '{value[:40]}'; write a number from 0 to 1, 0.1 for one call in ten.")
            return default
        return found
