"""The OTEL_* variables mean what the specification says; a wrong one is told with its name and its cure."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from outrider.errors import Misconfigured
from outrider.telemetry.environment import Exports, Sampler, Target, exports_of, shown

HERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}


def faults(**env: str) -> list[str]:
    with pytest.raises(Misconfigured) as failed:
        exports_of(env)
    return [fault.message for fault in failed.value.faults]


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"OTEL_SDK_DISABLED": "true", **HERE},
        {"OTEL_SDK_DISABLED": " True ", "OTEL_TRACES_EXPORTER": "otlp"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", **HERE},
        {"OTEL_TRACES_EXPORTER": "", "OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "always_on"},
    ],
)
def test_off_unless_a_signal_is_asked_for(env: dict[str, str]) -> None:
    """An endpoint or an exporter asks; an empty variable is none."""
    assert exports_of(env) == Exports() and exports_of(env).off


def test_an_endpoint_is_for_both_signals_below_their_paths() -> None:
    """With the slash at its end or without."""
    for url in ("http://c:4318", "http://c:4318/"):
        found = exports_of({"OTEL_EXPORTER_OTLP_ENDPOINT": url})
        assert found.traces == Target("http://c:4318/v1/traces")
        assert found.metrics == Target("http://c:4318/v1/metrics")


def test_a_signals_own_variables_win_and_its_address_is_taken_as_it_is() -> None:
    """Endpoint, timeout in milliseconds."""
    env = {**HERE, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://t/in", "OTEL_EXPORTER_OTLP_TIMEOUT": "2500"}
    found = exports_of({**env, "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT": "1000"})
    assert found.traces == Target("https://t/in", timeout_s=2.5)
    assert found.metrics == Target("http://c:4318/v1/metrics", timeout_s=1.0)


def test_an_exporter_without_an_endpoint_goes_to_the_default_one() -> None:
    """The one signal, and not the other."""
    found = exports_of({"OTEL_TRACES_EXPORTER": "OTLP"})
    assert (found.traces, found.metrics) == (Target("http://localhost:4318/v1/traces"), None)


@pytest.mark.parametrize(
    ("name", "argument", "sampler"),
    [
        ("", "", Sampler(1.0, True)),
        ("always_on", "", Sampler(1.0, False)),
        ("always_off", "", Sampler(0.0, False)),
        ("traceidratio", "0.1", Sampler(0.1, False)),
        ("parentbased_always_on", "", Sampler(1.0, True)),
        ("parentbased_always_off", "", Sampler(0.0, True)),
        ("ParentBased_TraceIdRatio", "0.25", Sampler(0.25, True)),
        ("parentbased_traceidratio", "", Sampler(1.0, True)),
    ],
)
def test_the_samplers_of_the_specification(name: str, argument: str, sampler: Sampler) -> None:
    """All six, and their default."""
    assert exports_of({**HERE, "OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument}).sampler == sampler


def test_limits_of_batches_and_intervals() -> None:
    """In milliseconds and items."""
    env = {
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_BSP_MAX_QUEUE_SIZE": "64",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8",
        "OTEL_METRIC_EXPORT_INTERVAL": "1500",
    }
    found = exports_of({**HERE, **env})
    assert (found.schedule_s, found.max_queue, found.max_batch, found.interval_s) == (0.1, 64, 8, 1.5)


@pytest.mark.parametrize(
    ("word", "content"), [("true", True), ("SPAN_ONLY", True), ("false", False), ("NO_CONTENT", False), ("", False)]
)
def test_content_is_sent_only_where_somebody_said_so(word: str, content: bool) -> None:
    """The old word and the new ones."""
    assert exports_of({**HERE, "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": word}).content is content


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("OTEL_SDK_DISABLED", "yes", "it may be true or false"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "'zipkin'; this sidecar knows otlp and none"),
        ("OTEL_METRICS_EXPORTER", "prometheus", "'prometheus'; this sidecar knows otlp and none"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "is not an address. Write for example http://"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:port", "is not an address"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "it may be http/protobuf or grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "it may be none, gzip or deflate"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem", "there is no such file"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "a whole number"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "it may be always_on, always_off"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0", "a whole number from 1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-5", "a whole number from 1"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096", "more than OTEL_BSP_MAX_QUEUE_SIZE with 2048"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "٣", "a whole number"),
        ("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "some", "it may be true"),
    ],
)
def test_a_wrong_value_is_told_with_its_name_and_its_cure(name: str, value: str, told: str) -> None:
    """One fault, not two, though both signals read it."""
    (fault,) = faults(**{**HERE, name: value})
    assert name in fault and told in fault


def test_the_password_of_an_address_is_told_to_nobody() -> None:
    """Neither in a fault nor in the log."""
    (fault,) = faults(OTEL_EXPORTER_OTLP_ENDPOINT="htps://user:hunter2@c:4318")
    assert "htps://c:4318" in fault and "hunter2" not in fault
    assert shown("http://u:p@c:1/v1") == "http://c:1/v1" and shown("http://c:1/v1") == "http://c:1/v1"


@pytest.mark.parametrize("value", ["1.5", "-0.1", "nan", "half", "inf"])
def test_a_share_lies_between_none_and_all(value: str) -> None:
    """And is a number."""
    env = {**HERE, "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": value}
    assert "write a number from 0 to 1" in faults(**env)[0]


def test_every_fault_is_told_at_once() -> None:
    """Not one a start."""
    found = faults(**HERE, OTEL_TRACES_SAMPLER="x", OTEL_BSP_MAX_QUEUE_SIZE="y", OTEL_EXPORTER_OTLP_COMPRESSION="z")
    assert len(found) == 3


def test_grpc_needs_its_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not installed, the fault says how to do without and how to install it."""
    env = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert exports_of(env).traces == Target("http://localhost:4317", "grpc")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (fault,) = faults(**env)
    assert "Write http/protobuf (port 4318)" in fault and "pip install opentelemetry-exporter-otlp-proto-grpc" in fault


def test_a_certificate_that_is_there_is_no_fault(tmp_path: Path) -> None:
    """Its content is the exporter's matter."""
    file = tmp_path / "ca.pem"
    file.write_text("x")
    assert not exports_of({**HERE, "OTEL_EXPORTER_OTLP_CERTIFICATE": str(file)}).off
