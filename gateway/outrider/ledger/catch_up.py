"""At a start: what the process before this one acknowledged ahead of a commit that it did not live to see."""

from __future__ import annotations

from outrider.errors import Fault, Misconfigured
from outrider.ledger.ahead import FILE, Ahead
from outrider.ledger.commit import CommitFailed, Committer
from outrider.ledger.entry import Entry, Scribe
from outrider.store import Store


def catch_up(store: Store, committer: Committer, scribe: Scribe) -> Ahead | None:
    """Chain and commit what lies in the file ``ahead`` and not in the ledger. Returns the file, empty; None where the
    disk has no room for one. Raises Misconfigured: it cannot be read or written; starting without it would forge the
    ends of calls."""
    try:
        ahead = Ahead.open(store.folder)
    except (OSError, ValueError) as error:
        raise _left_behind(store, error) from error
    if ahead is None:
        return None
    try:
        missing = committer.missing(ahead.left_behind())
        if missing:
            _commit(store, committer, scribe, missing)
        ahead.clear()
    except BaseException as error:
        ahead.close()
        if isinstance(error, CommitFailed | ValueError):
            raise _left_behind(store, error) from error
        raise
    return ahead


def _commit(store: Store, committer: Committer, scribe: Scribe, entries: list[Entry]) -> None:
    """On a full disk, on the reserve. Raises CommitFailed."""
    batch, _ = scribe.seal(entries, committer.head())
    try:
        committer.commit(batch)
    except CommitFailed as error:
        if error.kind != "full" or not store.reserve.held:
            raise
        committer.commit(batch, use_reserve=True)


def _left_behind(store: Store, error: Exception) -> Misconfigured:
    fault = Fault(
        str(store.folder / FILE), 0, "",
        f"the last records of the sidecar before this one cannot be taken into the ledger: {error}.",
        "Mend that and start again; with a newer format, start the version that wrote it.",
    )  # fmt: skip
    return Misconfigured([fault])
