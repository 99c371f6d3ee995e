"""Telemetry of a real sidecar, at a real OTLP/HTTP collector: the whole tree, the same numbers, and a bad collector."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from outrider.testing.gateway import GatewayProcess
from outrider.testing.process import ProcessFailed
from outrider.testing.script import respond, unavailable
from outrider.testing.upstream_process import UpstreamProcess
from tests.support.eventually import eventually
from tests.support.otlp_receiver import Received, Receiver

pytestmark = pytest.mark.timeout(120)
SMALL = {"OTEL_BSP_MAX_QUEUE_SIZE": "20", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10"}
TRACE, SPAN = "a" * 32, "b" * 16
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


@pytest.fixture
def upstream() -> Iterator[UpstreamProcess]:
    with UpstreamProcess(
        {"/get": [respond(json={"n": 1})], "/shaky": [*[unavailable()] * 2, respond(json={})]}
    ) as found:
        yield found


@contextmanager
def sidecar(receiver: Receiver, upstream: UpstreamProcess, **env: str) -> Iterator[GatewayProcess]:
    """One that exports soon."""
    policy = {
        "upstreams": {"bank": {"http": {"url": upstream.url}}},
        "defaults": {"retry": {"maxAttempts": 3, "backoff": {"initial": "1ms", "max": "5ms"}}},
        "tools": [{"match": "bank.*", "effect": "read"}, {"match": "local.*", "effect": "read"}],
        "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
    }
    soon = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_METRIC_EXPORT_INTERVAL": "200", "OTEL_SDK_DISABLED": "false"}
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **soon, **env}
    with GatewayProcess(policy, env=environment) as gateway:
        yield gateway


def scraped(gateway: GatewayProcess) -> dict[str, float]:
    status, text = gateway.control("GET", "/metrics")
    assert status == 200
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines)}


def dropped(gateway: GatewayProcess, signal_: str, reason: str) -> float:
    return scraped(gateway)[f'outrider_telemetry_dropped_total{{signal="{signal_}",reason="{reason}"}}']


def call_of(spans: list[Received]) -> Received:
    (found,) = [span for span in spans if span.kind == "INTERNAL"]
    return found


# ── what arrives ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_call_over_http_is_one_tree_from_the_agent_to_the_upstream(
    receiver: Receiver, upstream: UpstreamProcess
) -> None:
    """The caller's span above, one client span for each attempt below, and each attempt's context at the upstream."""
    with sidecar(receiver, upstream, OTEL_SERVICE_NAME="gate", OTEL_RESOURCE_ATTRIBUTES="team=blue") as gateway:
        assert gateway.call("bank.shaky", {"secret": "s3cret"}, agent="ann", headers=PARENT)[0] == 200
        assert eventually(lambda: len(receiver.trace(TRACE)) == 4)
    spans = receiver.trace(TRACE)
    call, attempts = call_of(spans), [span for span in spans if span.kind == "CLIENT"]
    assert (call.name, call.parent_id, call.tracestate) == ("execute_tool bank.shaky", SPAN, "vendor=1")
    assert {span.parent_id for span in attempts} == {call.id}
    assert [span.attributes["http.response.status_code"] for span in attempts] == [503, 503, 200]
    assert [span.attributes.get("http.request.resend_count") for span in attempts] == [None, 1, 2]
    assert [name for name, _ in call.events] == ["outrider.retry"] * 2
    told = [(one.headers["traceparent"], one.headers["tracestate"]) for one in upstream.requests("/shaky")]
    assert told == [(f"00-{TRACE}-{span.id}-01", "vendor=1") for span in attempts]
    assert (call.resource["service.name"], call.resource["team"]) == ("gate", "blue")
    assert "s3cret" not in str([span.attributes for span in spans])


FUNCTION = """
    import sys
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from outrider_adapters.governed import governed

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    tracer = trace.get_tracer("agent")

    @governed(name="local.add")
    def add(a, b):
        with tracer.start_as_current_span("inside"):
            return a + b

    if sys.argv[1] == "span":
        with tracer.start_as_current_span("framework"):
            assert add(1, 2) == 3
    else:
        assert add(1, 2) == 3
"""


def run_agent(gateway: GatewayProcess, receiver: Receiver, folder: Path, program: str, *arguments: str) -> None:
    (folder / "agent.py").write_text(textwrap.dedent(program))
    env = {**os.environ, **gateway.env, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_SDK_DISABLED": "false"}
    command = [sys.executable, "agent.py", *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_an_in_process_call_hangs_below_the_span_of_its_framework(
    receiver: Receiver, upstream: UpstreamProcess, tmp_path: Path
) -> None:
    """Over the channel; the function may go on adding to its framework's span, so that one stays current in it."""
    with sidecar(receiver, upstream) as gateway:
        run_agent(gateway, receiver, tmp_path, FUNCTION, "span")
        assert eventually(lambda: len(receiver.spans) == 4)
    by_name = {span.name: span for span in receiver.spans}
    framework, call = by_name["framework"], by_name["execute_tool local.add"]
    assert call.parent_id == framework.id and call.attributes["gen_ai.tool.type"] == "function"
    assert by_name["attempt local.add"].parent_id == call.id
    assert by_name["inside"].parent_id == framework.id
    assert len({span.trace_id for span in receiver.spans}) == 1


def test_a_functions_own_spans_hang_below_the_attempt_where_nothing_is_above(
    receiver: Receiver, upstream: UpstreamProcess, tmp_path: Path
) -> None:
    """One trace, begun by the sidecar."""
    with sidecar(receiver, upstream) as gateway:
        run_agent(gateway, receiver, tmp_path, FUNCTION, "none")
        assert eventually(lambda: len(receiver.spans) == 3)
    by_name = {span.name: span for span in receiver.spans}
    assert by_name["execute_tool local.add"].parent_id == ""
    assert by_name["inside"].parent_id == by_name["attempt local.add"].id
    assert len({span.trace_id for span in receiver.spans}) == 1


def test_the_numbers_are_those_of_the_metrics_endpoint(receiver: Receiver, upstream: UpstreamProcess) -> None:
    """Every series of ours, by both ways, once nothing happens any more; and the conventions' histogram."""
    with sidecar(receiver, upstream) as gateway:
        for tool, agent in (("bank.get", "ann"), ("bank.get", "bob"), ("bank.shaky", "ann"), ("nobody.get", "ann")):
            gateway.call(tool, agent=agent)
        assert eventually(lambda: scraped(gateway) | MOVING == flat(receiver) | MOVING, within_s=20)
        found = receiver.metrics()["gen_ai.execute_tool.duration"]
    assert found.unit == "s"
    counts = {
        (attributes["gen_ai.tool.name"], attributes.get("error.type", "")): (point.count, list(point.explicit_bounds))
        for point in found.histogram.data_points
        for attributes in [values_of(point)]
    }
    assert counts["bank.get", ""][0] == 2 and counts["overflow", "unknown_tool"][0] == 1
    assert counts["bank.get", ""][1][:2] == [0.01, 0.02]


MOVING = dict.fromkeys(
    [
        "outrider_ledger_queued_records",
        "outrider_ledger_lag_seconds",
        "outrider_ledger_bytes",
        "outrider_ledger_records_total",
        "outrider_ledger_batches_total",
        "outrider_ledger_fsyncs_total",
        "outrider_tasks",
    ],
    0.0,
)
"""What changes by itself, or by being looked at."""


def values_of(point: Any) -> dict[str, str]:
    return {one.key: one.value.string_value for one in point.attributes}


def flat(receiver: Receiver) -> dict[str, float]:
    """What came by OTLP, written as Prometheus would be told it."""
    found: dict[str, float] = {}
    for name, metric in receiver.metrics().items():
        kind = metric.WhichOneof("data")
        for point in getattr(metric, kind).data_points:
            if kind == "histogram":
                found.update(buckets(name, point))
            else:
                value = point.as_double if point.WhichOneof("value") == "as_double" else float(point.as_int)
                found[series(name, values_of(point))] = value
    return found


def buckets(name: str, point: Any) -> Iterator[tuple[str, float]]:
    labels = values_of(point)
    if name == "gen_ai.execute_tool.duration":
        assert labels.pop("gen_ai.operation.name") == "execute_tool"
        name = "outrider_tool_duration_seconds"
        labels = {"tool": labels["gen_ai.tool.name"], "code": labels.get("error.type", "")}
    so_far = 0
    bounds = [*(f"{bound:g}" for bound in point.explicit_bounds), "+Inf"]
    for bound, count in zip(bounds, point.bucket_counts, strict=True):
        so_far += count
        yield series(f"{name}_bucket", {**labels, "le": bound}), float(so_far)
    yield series(f"{name}_sum", labels), point.sum
    yield series(f"{name}_count", labels), float(point.count)


def series(name: str, labels: dict[str, str]) -> str:
    inside = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{name}{{{inside}}}" if inside else name


# ── a bad collector ──────────────────────────────────────────────────────────────────────────────────────────────────


def steady(gateway: GatewayProcess, calls: int) -> float:
    """So many good calls, one behind the other; the longest of them in seconds."""
    longest = 0.0
    for _ in range(calls):
        began = time.monotonic()
        assert gateway.call("bank.get")[0] == 200
        longest = max(longest, time.monotonic() - began)
    return longest


def test_a_collector_that_is_down_costs_spans_and_no_call(receiver: Receiver, upstream: UpstreamProcess) -> None:
    """What is lost is counted, and when it is back the spans come."""
    receiver.down()
    quick = {
        "OTEL_EXPORTER_OTLP_TIMEOUT": "300",
        "OTEL_BSP_MAX_QUEUE_SIZE": "20",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10",
    }
    with sidecar(receiver, upstream, **quick) as gateway:
        assert steady(gateway, 60) < 5.0
        assert eventually(lambda: dropped(gateway, "traces", "export_failed") > 0)
        assert eventually(lambda: dropped(gateway, "metrics", "export_failed") > 0)
        assert not receiver.spans
        receiver.up()

        def arrives() -> bool:
            gateway.call("bank.get", headers=PARENT)
            return len(receiver.trace(TRACE)) > 0

        assert eventually(arrives, within_s=20, every_s=0.2)
        assert "cannot be delivered" in gateway.log and "delivered again" in gateway.log


def test_a_collector_that_hangs_holds_up_neither_calls_nor_the_end(
    receiver: Receiver, upstream: UpstreamProcess
) -> None:
    """The queue is bounded, what is beyond it is counted, and SIGTERM waits two seconds for it at most."""
    with sidecar(receiver, upstream, **SMALL) as gateway:
        receiver.hang()
        assert steady(gateway, 60) < 5.0
        assert eventually(lambda: dropped(gateway, "traces", "queue_full") > 0)
        began = time.monotonic()
        assert gateway.terminate() == 0
        assert time.monotonic() - began < 8.0, "it waited for the exporters, which wait ten seconds"
        assert '"message": "stopped"' in gateway.log


@pytest.mark.parametrize("status", [429, 503])
def test_a_collector_that_is_busy_is_asked_again_when_it_said(
    receiver: Receiver, upstream: UpstreamProcess, status: int
) -> None:
    """With Retry-After: nothing is lost."""
    receiver.status, receiver.headers = status, {"Retry-After": "1"}
    with sidecar(receiver, upstream) as gateway:
        gateway.call("bank.get", headers=PARENT)
        assert eventually(lambda: any(path == "/v1/traces" for path, _ in receiver.requests))
        receiver.status, receiver.headers = 200, {}
        assert eventually(lambda: len(receiver.trace(TRACE)) == 2)
        assert dropped(gateway, "traces", "export_failed") == 0


@pytest.mark.parametrize("status", [400, 302])
def test_a_collector_that_refuses_is_not_asked_again(
    receiver: Receiver, upstream: UpstreamProcess, status: int
) -> None:
    """Counted as lost: a redirect is no delivery either."""
    receiver.status, receiver.headers = status, {"Location": "/elsewhere"} if status == 302 else {}
    with sidecar(receiver, upstream) as gateway:
        gateway.call("bank.get")
        assert eventually(lambda: dropped(gateway, "traces", "export_failed") == 2)


def test_what_a_collector_takes_only_in_part_is_counted(receiver: Receiver, upstream: UpstreamProcess) -> None:
    """``partial_success``: it said how many it did not take."""
    receiver.refuses = 2
    with sidecar(receiver, upstream) as gateway:
        gateway.call("bank.get")
        assert eventually(lambda: dropped(gateway, "traces", "refused") == 2)


def test_what_is_queued_is_delivered_on_the_way_out(receiver: Receiver, upstream: UpstreamProcess) -> None:
    """SIGTERM right after a call: its spans and the last numbers still arrive."""
    late = {"OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_METRIC_EXPORT_INTERVAL": "60000"}
    with sidecar(receiver, upstream, **late) as gateway:
        gateway.call("bank.get", headers=PARENT)
        assert gateway.terminate() == 0
    assert len(receiver.trace(TRACE)) == 2
    (calls,) = receiver.metrics()["outrider_calls_total"].sum.data_points
    assert calls.as_int == 1


# ── switching it on ──────────────────────────────────────────────────────────────────────────────────────────────────


def loads_protobuf(gateway: GatewayProcess) -> bool:
    return "google/_upb" in Path(f"/proc/{gateway.pid}/maps").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("disabled", ["true", "false"])
def test_off_is_off(receiver: Receiver, upstream: UpstreamProcess, disabled: str) -> None:
    """Nothing is sent, nothing of the exporter is loaded, and the caller's context goes on as it came."""
    with sidecar(receiver, upstream, OTEL_SDK_DISABLED=disabled) as gateway:
        gateway.call("bank.get", headers=PARENT)
        assert loads_protobuf(gateway) is (disabled == "false")
        gateway.terminate()
    assert bool(receiver.requests) is (disabled == "false")
    (received,) = upstream.requests("/get")
    assert (received.headers["traceparent"] == PARENT["traceparent"]) is (disabled == "true")


def test_a_wrong_setting_stops_the_start_and_says_all_that_is_wrong(
    receiver: Receiver, upstream: UpstreamProcess
) -> None:
    """Name, value and what may be written, for each."""
    wrong = {"OTEL_TRACES_SAMPLER": "sometimes", "OTEL_BSP_MAX_QUEUE_SIZE": "lots"}
    with pytest.raises(ProcessFailed) as failed, sidecar(receiver, upstream, **wrong):
        pass
    text = str(failed.value)
    assert re.search(r"OTEL_TRACES_SAMPLER is 'sometimes'; it may be always_on, .* or parentbased_traceidratio", text)
    assert "OTEL_BSP_MAX_QUEUE_SIZE is 'lots'; write a whole number" in text


def test_only_what_the_collector_is_told_to_see_is_sent(receiver: Receiver, upstream: UpstreamProcess) -> None:
    """Metrics alone; with headers and compression of the standard variables."""
    env = {
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=k1",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    }
    with sidecar(receiver, upstream, **env) as gateway:
        gateway.call("bank.get", headers=PARENT)
        assert eventually(lambda: "outrider_calls_total" in receiver.metrics())
    assert {path for path, _ in receiver.requests} == {"/v1/metrics"}
    headers = {name.lower(): value for name, value in receiver.requests[0][1].items()}
    assert (headers["x-key"], headers["content-encoding"]) == ("k1", "gzip")


def test_a_sidecar_that_is_killed_leaves_no_harm(receiver: Receiver, upstream: UpstreamProcess) -> None:
    """SIGKILL with spans queued and the collector hanging: it starts again, and exports."""
    with sidecar(receiver, upstream) as gateway:
        receiver.hang()
        steady(gateway, 5)
        os.kill(gateway.pid, signal.SIGKILL)
        receiver.resume()
        assert eventually(lambda: not gateway.running)
        gateway.start()
        gateway.call("bank.get", headers=PARENT)
        assert eventually(lambda: len(receiver.trace(TRACE)) == 2)
