"""docs/telemetry.md says what the code does: every attribute, every variable, every reason."""

from __future__ import annotations

import json
import re
from pathlib import Path

from outrider.telemetry import environment, semconv
from outrider.telemetry.shipping import REASONS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "telemetry.md").read_text()
ROWS = re.findall(r"^\| `([a-z_.]+)` \| ([a-z, ]+) \| (.*) \|$", TEXT, re.MULTILINE)


def test_every_attribute_is_documented_with_where_and_what() -> None:
    """The table is that of ``semconv.ATTRIBUTES``, row by row."""
    assert [(name, ", ".join(where), text) for name, (where, text) in semconv.ATTRIBUTES.items()] == ROWS
    assert semconv.VERSION in TEXT


def test_every_name_of_an_attribute_is_in_the_table() -> None:
    """A constant that looks like one and is used for a metric, an event or a value is none."""
    others = {semconv.EXECUTE_TOOL_DURATION, semconv.RETRY_EVENT, semconv.FALLBACK_EVENT, semconv.VERSION}
    named = {value for name, value in vars(semconv).items() if name.isupper() and isinstance(value, str)}
    assert {value for value in named if "." in value} - others == set(semconv.ATTRIBUTES)


def test_the_golden_tree_has_no_attribute_that_is_not_documented_for_it() -> None:
    """Call, attempt and event each have their own."""
    for span in json.loads((ROOT / "tests/golden/telemetry/span_tree.json").read_text()):
        where = semconv.CALL if span["kind"] == "INTERNAL" else semconv.TRY
        for name in span["attributes"]:
            assert where in semconv.ATTRIBUTES[name][0], name
        for event in span["events"]:
            assert all(semconv.EVENT in semconv.ATTRIBUTES[name][0] for name in event if name != "name")


def test_every_variable_that_is_read_is_documented_and_the_other_way_round() -> None:
    """By the names in the source; those of one signal are made of the general ones."""
    source = Path(environment.__file__).read_text()
    read = set(re.findall(r'"(OTEL_[A-Z_]+)"', source))
    read |= {f"OTEL_EXPORTER_OTLP_{what}" for what in re.findall(r'(?:signal, )"([A-Z]+)"\)', source)}
    read |= {f"OTEL_EXPORTER_OTLP_{what}" for what in environment.FILES}
    read |= {"OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"}  # made of the signal's name
    read |= {"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"}  # the SDK's to read
    table = [line for line in TEXT.splitlines() if line.startswith("| `OTEL_")]
    assert set(re.findall(r"`(OTEL_[A-Z_]+)`", " ".join(line.split("|")[1] for line in table))) == read


def test_every_reason_for_a_loss_is_documented() -> None:
    """As the label says it."""
    written = re.findall(r"^\| `([a-z_]+)` \| [^|]* \|$", TEXT.partition("When the collector")[2], re.MULTILINE)
    assert tuple(written) == REASONS
