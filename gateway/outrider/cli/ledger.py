"""``outrider ledger …``: read the audit trail, of a running sidecar or of a folder at rest.

With a data folder the database is read directly, whether a sidecar runs or not; with OUTRIDER_CONTROL_URL alone the
sidecar is asked. Nothing here writes: to erase, the running sidecar is asked, which alone writes its ledger.
"""

from __future__ import annotations

import json as json_format
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol
from urllib.parse import quote

import typer

from outrider.cli.client import Client
from outrider.cli.fault import CliError
from outrider.cli.options import Data, Json, Reason, people
from outrider.cli.place import data_folder
from outrider.cli.plain import safe, short
from outrider.cli.shown import as_json, say, table, warn

FOLLOW_EVERY_S = 0.5
FOLLOW_AT_ONCE = 1000
COLUMNS = ("time", "type", "agent", "tool", "outcome", "what", "call")
Record = dict[str, Any]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="The audit trail.", no_args_is_help=True)
    for command in (tail, search, show, export, erase, verify):
        group.command()(command)
    app.add_typer(group, name="ledger")


class Source(Protocol):
    """Where records come from."""

    def tail(self, n: int, after: int | None) -> list[Record]: ...
    def search(self, query: dict[str, Any]) -> dict[str, Any]: ...
    def show(self, call_id: str) -> list[Record]: ...


class Folder:
    """The database of a data folder, read-only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tail(self, n: int, after: int | None) -> list[Record]:
        from outrider.ledger import query

        return query.tail(self._folder, n, after_seq=after)

    def search(self, query: dict[str, Any]) -> dict[str, Any]:
        from outrider.ledger import query as reader

        page = reader.search(self._folder, wanted(query), limit=query["limit"], before_seq=query["before"])
        return {"records": page.records, "next_before": page.next_before_seq}

    def show(self, call_id: str) -> list[Record]:
        from outrider.ledger import query

        return query.show(self._folder, call_id)


class Sidecar:
    """A running sidecar, asked over its control plane."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def tail(self, n: int, after: int | None) -> list[Record]:
        if after is not None:
            return list(self._client.get("/v1/ledger", {"after": after, "limit": n})["records"])
        return list(reversed(self._client.get("/v1/ledger", {"limit": n})["records"]))

    def search(self, query: dict[str, Any]) -> dict[str, Any]:
        return dict(self._client.get("/v1/ledger", query))

    def show(self, call_id: str) -> list[Record]:
        answer = self._client.ask("GET", f"/v1/calls/{quote(call_id, safe='')}")
        return list(answer.body["records"]) if answer.ok else []


def caught_up(folder: Path) -> Path:
    """The folder, once its database has what was acknowledged before now."""
    from outrider.ledger import ahead

    if not ahead.caught_up(folder):
        warn(
            f"Warning: some acknowledged records are not in the database yet, they lie in {folder / ahead.FILE}. "
            "A running sidecar writes them soon; those of one that was killed are written by the next start."
        )
    return folder


def source(data: Path | None) -> Source:
    """The folder where one is meant, else the sidecar that the environment names."""
    asked = data is None and not os.environ.get("OUTRIDER_DATA") and bool(os.environ.get("OUTRIDER_CONTROL_URL"))
    return Sidecar(people(None)) if asked else Folder(caught_up(data_folder(data)))


def wanted(query: dict[str, Any]) -> Any:
    """The filter of a search. Raises CliError for a time that is none."""
    from outrider.ledger.query import Filter

    return Filter(
        call_id=query.get("call_id", ""),
        agent=query.get("agent", ""),
        tool=query.get("tool", ""),
        type=query.get("type", ""),
        since=moment("since", query["since"]),
        until=moment("until", query["until"]),
    )


def moment(option: str, text: str) -> float | None:
    """Seconds since the epoch; None for no text. Raises CliError for a time that is none."""
    from outrider.control_bodies import parse_moment

    if not text:
        return None
    found = parse_moment(text)
    if found is None:
        raise CliError(f"--{option} '{text}' is no time.", "write 15m (ago) or 2026-11-22T15:04:05Z.", 2)
    return found


def tail(
    number: Annotated[int, typer.Option("-n", "--number", min=1, max=1000, help="How many records.")] = 20,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what is added.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """The last records."""
    place = source(data)
    records = place.tail(number, None)
    if not follow:
        return _lines(records) if json else _table(records)
    return _follow(place, records, json)


def _follow(place: Source, records: list[Record], json: bool) -> None:
    """Until the person has seen enough."""
    after = 0
    while True:
        _lines(records) if json else _sentences(records)
        sys.stdout.flush()
        after = records[-1]["seq"] if records else after
        if len(records) < FOLLOW_AT_ONCE:
            time.sleep(FOLLOW_EVERY_S)
        records = place.tail(FOLLOW_AT_ONCE, after)


def search(
    call_id: Annotated[str, typer.Option("--call", metavar="CALL", help="Of this call.", show_default=False)] = "",
    agent: Annotated[str, typer.Option("--agent", help="Of this agent; NAME or PREFIX*.", show_default=False)] = "",
    tool: Annotated[str, typer.Option("--tool", help="Of this tool; NAME or PREFIX*.", show_default=False)] = "",
    type_: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="Of this type: call.refused, say.", show_default=False)
    ] = "",
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="15m (ago) or a time in RFC 3339.", show_default=False)
    ] = "",
    until: Annotated[
        str, typer.Option("--until", metavar="TIME", help="15m (ago) or a time in RFC 3339.", show_default=False)
    ] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many records.")] = 50,
    before: Annotated[
        int | None, typer.Option("--before", help="Go on where the last search ended.", show_default=False)
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Records that agree with every filter, newest first."""
    query = {
        "call_id": call_id, "agent": agent, "tool": tool, "type": type_,
        "since": since, "until": until, "limit": limit, "before": before,
    }  # fmt: skip
    page = source(data).search(query)
    if json:
        return as_json(page)
    _table(page["records"])
    if page["next_before"] is not None:
        say(f"There may be more: add --before {page['next_before']}")
    return None


def show(
    call_id: Annotated[str, typer.Argument(metavar="CALL", help="The call's id.")],
    data: Data = None,
    json: Json = False,
) -> None:
    """Everything that is recorded of one call, with its arguments and its result."""
    records = source(data).show(call_id)
    if not records:
        raise CliError(f"the ledger holds no call '{call_id}'.", "list calls with: outrider ledger search")
    if json:
        return as_json(records)
    _sentences(records)
    for record in records:
        for kind in ("args", "result"):
            if kind in record:
                say(f"\n{kind} (record {record['seq']}):")
                print(json_format.dumps(record[kind], indent=2, ensure_ascii=True, default=str))
    return None


def export(
    format_: Annotated[
        Literal["jsonl", "csv"], typer.Option("--format", metavar="jsonl|csv", help="JSON Lines or CSV.")
    ] = "jsonl",
    out: Annotated[Path | None, typer.Option("--out", help="A file; default: stdout.", show_default=False)] = None,
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="15m (ago) or a time in RFC 3339.", show_default=False)
    ] = "",
    until: Annotated[
        str, typer.Option("--until", metavar="TIME", help="15m (ago) or a time in RFC 3339.", show_default=False)
    ] = "",
    data: Data = None,
) -> None:
    """Write every record, oldest first. Lines of JSON are those that were hashed, byte for byte."""
    from outrider.ledger import query

    folder, chosen = caught_up(data_folder(data)), wanted({"since": since, "until": until})
    if out is None:
        query.export(folder, sys.stdout, format=format_, wanted=chosen)
        return
    try:
        with out.open("w", encoding="utf-8", newline="") as file:
            count = query.export(folder, file, format=format_, wanted=chosen)
    except OSError as error:
        raise CliError(f"{out} cannot be written: {error.strerror}.") from None
    say(f"Wrote {count} records to {out}.")


def erase(
    call_id: Annotated[str, typer.Argument(metavar="CALL", help="The call's id.")],
    reason: Reason,
    data: Data = None,
    json: Json = False,
) -> None:
    """Have the running sidecar forget the stored arguments and results of a call. The record of it stays, and the
    ledger still verifies."""
    erased = people(data).expect("POST", f"/v1/ledger/{quote(call_id, safe='')}/erase", {"reason": reason})
    if json:
        return as_json(erased)
    say(f"Erased: the arguments and results of {safe(call_id)} (record {erased['seq']}).")
    say("Not erased: copies, backups and exports made before, and error texts in its records.")
    return None


def verify(
    expect_head: Annotated[
        str, typer.Option("--expect-head", metavar="HASH", help="A head noted down earlier.", show_default=False)
    ] = "",
    expect_seq: Annotated[
        int, typer.Option("--expect-seq", metavar="N", help="The number of its record.", show_default=False, min=0)
    ] = 0,
    data: Data = None,
    json: Json = False,
) -> None:
    """Check every record of the ledger, offline or while a sidecar runs. Exit code 1 names the first bad one."""
    from outrider.ledger.verify import verify as check_all

    report = check_all(caught_up(data_folder(data)), expect_head=expect_head, expect_seq=expect_seq)
    if json:
        as_json(report.as_dict())
    elif report.first_bad is not None:
        number, why = report.first_bad
        say(f"BAD: record {number}: {why}. The {report.records} records before it are good.")
    else:
        say(f"Good: {report.records} records, head {report.head} (note it down to find a cut tail later).")
    raise typer.Exit(0 if report.ok else 1)


# ── for people ───────────────────────────────────────────────────────────────────────────────────────────────────


def _lines(records: Iterable[Record]) -> None:
    for record in records:
        print(json_format.dumps(record, ensure_ascii=True, default=str))


def _table(records: list[Record]) -> None:
    table(COLUMNS, [_row(record) for record in records], "The ledger holds no such record.")


def _row(record: Record) -> tuple[object, ...]:
    agent = record.get("agent") or {}
    return (
        str(record.get("ts", ""))[:23],
        record.get("type", "«damaged»"),
        agent.get("name", ""),
        record.get("tool", ""),
        record.get("outcome", ""),
        short(_what(record)),
        record.get("call_id", ""),
    )


def _what(record: Record) -> str:
    """The one thing that matters of a record."""
    if scope := (record.get("data") or {}).get("scope"):
        return f"{scope}: {record.get('reason', '')}"
    if record.get("attempt"):
        more = record.get("detail") or record.get("code") or ""
        return f"attempt {record['attempt']} {more}".strip()
    for key in ("detail", "reason", "code", "rule", "decision"):
        if record.get(key):
            return f"{key} {record[key]}" if key in ("rule", "code") else str(record[key])
    return str((record.get("data") or {}).get("name") or "")


def _sentences(records: Iterable[Record]) -> None:
    for record in records:
        print("  ".join(safe(str(cell)) for cell in _row(record) if cell not in ("", None)))
