"""docs/ledger.md tells everything that is in a line, and nothing that is not."""

from __future__ import annotations

import re
from pathlib import Path

from outrider.ledger import redact, writer
from outrider.ledger.commit import Head
from outrider.ledger.entry import Scribe
from outrider.ledger.record import EventType, decode_record
from outrider.policy.plans import LedgerSettings
from outrider.store import RESERVE_BYTES
from tests.ledger_kit import event

PAGE = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text(encoding="utf-8")


def table(heading: str) -> set[str]:
    """Every `word` in the first column of the first table below a heading."""
    part = PAGE.split(f"{heading}\n", 1)[1]
    rows = re.search(r"(?:^\|.*\n)+", part, re.MULTILINE)
    assert rows is not None
    return {word for row in rows[0].splitlines()[2:] for word in re.findall(r"`([^`]+)`", row.split("|")[1])}


def test_every_field_of_a_line_is_explained_and_no_other() -> None:
    """Those that a caller fills in, those the writer adds, and the digests."""
    scribe = Scribe("log", "start")
    made = event()
    entry = scribe.entry(made, {"token": "x"}, {"token": "y"}, ())
    entry.durable, entry.mutations = False, ()
    line = scribe.seal([entry], Head())[0].ledger[7]
    assert table("### Fields") == set(made.__struct_fields__) | set(decode_record.decode(line))


def test_every_type_of_event_is_explained_and_no_other() -> None:
    """In the words of the ledger."""
    assert table("## What is recorded") == set(EventType)


def test_every_kind_of_path_in_the_page_is_understood() -> None:
    """The examples work."""
    paths = table("- places that the policy names for a tool (`redact`):\n")
    assert len(paths) >= 7
    redact.Redactor().redact("args", {}, tuple(paths))


def test_the_names_in_the_page_are_redacted() -> None:
    """Each of them."""
    named = re.search(r"\*names\* everybody keeps secret: (.*?)…", PAGE, re.DOTALL)
    assert named is not None
    for name in re.findall(r"`([^`]+)`", named[1]):
        assert redact.Redactor().redact("args", {name: 1}) == {name: redact.REDACTED}


def test_the_numbers_in_the_page_are_those_of_the_code() -> None:
    """Where they were changed, the page was too."""
    assert f"{RESERVE_BYTES // (1 << 20)} MB kept back" in PAGE
    assert f"{writer.MAX_QUEUED:,} records or {writer.MAX_QUEUED_BYTES // (1 << 20)} MB behind" in PAGE
    assert f"at most {writer.END_RETRY_S:.0f} s" in PAGE
    assert f"at most {redact.MAX_STORED_BYTES // 1024} kB each" in PAGE
    assert LedgerSettings().max_bytes == 10 * 1024**3 and "10 GiB by default" in PAGE
