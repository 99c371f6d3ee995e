"""Who the peers are: listed, answering, silent, ourselves, the same twice; and a kill's record, read strictly."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import msgspec
import pytest

from outrider.cli.fault import CliError
from outrider.cli.serve import _listed, _named
from outrider.errors import Refused
from outrider.kills import Kill, Lift, Scope
from outrider.kills.merge import Step, decide, digest, ends_ms
from outrider.peers import records
from outrider.peers.book import MAX_MISSED, Book, State, Who
from outrider.peers.names import Names
from outrider.settings import MAX_PEERS, Address

A, B, C = (Address(f"10.0.0.{n}", 7071) for n in (1, 2, 3))


def book(*addresses: Address) -> Book:
    made = Book("me")
    made.relist(addresses)
    return made


def states(of: Book) -> list[State]:
    return [peer.state for peer in of]


def who(name: str) -> Who:
    return Who(f"pod-{name}", name)


# ── the book ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_who_was_never_asked_and_who_is_silent_must_be_told_too() -> None:
    """A peer counts until it is known to be ourselves or a second address."""
    made = book(A, B, C)
    made.answered(A, who("a"))
    made.failed(B, "no answer")
    assert states(made) == [State.ANSWERING, State.SILENT, State.KNOWN]
    assert [peer.address for peer in made.told()] == [A, B, C]


def test_a_second_address_takes_over_when_the_first_falls_silent() -> None:
    """The sidecar is still there, and must still be told."""
    made = book(A, B)
    made.answered(A, who("a"))
    made.answered(B, who("a"))
    assert states(made) == [State.ANSWERING, State.SAME]
    made.failed(A, "no route")
    made.answered(B, who("a"))
    assert states(made) == [State.SILENT, State.ANSWERING]
    made.answered(A, who("a"))
    assert states(made) == [State.SAME, State.ANSWERING]


def test_our_own_address_stays_ours_while_it_does_not_answer() -> None:
    """We are here; and an address that another sidecar has taken over is that one's."""
    made = book(A)
    made.answered(A, Who("pod-me", "me"))
    made.failed(A, "busy")
    assert states(made) == [State.SELF] and made.told() == ()
    made.answered(A, who("a"))
    assert states(made) == [State.ANSWERING]


def test_who_is_listed_no_more_stays_while_it_answers() -> None:
    """A list may be late, and a kill should reach what can be reached."""
    made = book(A, B)
    made.answered(A, who("a"))
    made.relist([C])
    assert [peer.address for peer in made] == [A, C]
    made.failed(A, "gone")
    assert [peer.address for peer in made] == [C]


def test_a_restarted_peer_is_not_in_step_before_it_was_asked() -> None:
    """Another incarnation knows what its disk knows."""
    made = book(A)
    made.answered(A, who("a"))
    made.in_step(A, True)
    made.answered(A, Who("pod-a", "a2"))
    assert made.get(A) is not None and not made.get(A).in_step  # type: ignore[union-attr]


def test_there_are_only_so_many_and_the_rest_are_counted() -> None:
    """``left_out`` makes every kill incomplete, so nobody overlooks it."""
    made = book(*(Address(f"10.0.{n // 250}.{n % 250}", 1) for n in range(MAX_PEERS + 7)))
    assert (len(list(made)), made.left_out) == (MAX_PEERS, 7)


def test_what_a_peer_missed_is_bounded_and_over_once_it_is_in_step() -> None:
    """The newest; the kills themselves are on the board."""
    made = book(A)
    for n in range(MAX_MISSED + 5):
        made.missed(A, f"k{n}")
    (peer,) = made
    assert len(peer.missed) == MAX_MISSED and f"k{MAX_MISSED + 4}" in peer.missed
    made.in_step(A, True)
    assert not peer.missed


def test_an_answer_of_who_was_dropped_meanwhile_changes_nothing() -> None:
    """Requests outlive lists."""
    made = book(A)
    made.answered(B, who("b"))
    made.failed(B, "x")
    made.missed(B, "k")
    made.in_step(B, True)
    assert [peer.address for peer in made] == [A]


# ── records ──────────────────────────────────────────────────────────────────────────────────────────────────────


def a_kill(**changed: Any) -> Kill:
    known: dict[str, Any] = {
        "id": "k-1", "target": Scope("agent", "ann"), "reason": "why", "by": "bob",
        "at": 1_800_000_000.123456, "mono": 0.0,
    }  # fmt: skip
    return Kill(**known | changed)


@pytest.mark.parametrize("ttl_s", [None, 0.004, 5.0, 1e6 / 3])
def test_a_record_survives_the_way(ttl_s: float | None) -> None:
    """There and back both know the same, to the millisecond."""
    for kill in (a_kill(ttl_s=ttl_s), a_kill(ttl_s=ttl_s, lifted=Lift(1_800_000_001.0, "eve", "over"))):
        back = records.read(msgspec.json.decode(msgspec.json.encode(records.told(kill))), "pod-b")
        assert (back.id, back.target, back.reason, back.by, back.at) == (
            kill.id, kill.target, kill.reason, kill.by, kill.at,
        )  # fmt: skip
        assert ends_ms(back) == ends_ms(kill) and digest([back]) == digest([kill])
        assert (back.lifted is None) == (kill.lifted is None)
        assert decide(kill, back) is decide(back, kill) is Step.NOTHING


GOOD = msgspec.to_builtins(records.told(a_kill(ttl_s=5.0)))


@pytest.mark.parametrize(
    "given",
    [
        None, [], "x", {},
        GOOD | {"id": ""}, GOOD | {"id": "../kills"}, GOOD | {"id": "x" * 65}, GOOD | {"id": 7},
        GOOD | {"scope": "everything"}, GOOD | {"scope": "agent:"}, GOOD | {"scope": "agent:" + "x" * 501},
        GOOD | {"reason": ""}, GOOD | {"reason": "x" * 501}, GOOD | {"by": ""},
        GOOD | {"at": -1.0}, GOOD | {"at": 1e30}, GOOD | {"ends_ms": 0}, GOOD | {"ends_ms": 10**18},
        GOOD | {"lifted": {}}, GOOD | {"lifted": {"at": -1.0, "by": "x", "reason": "y"}},
        GOOD | {"lifted": {"at": 1.0, "by": "", "reason": "y"}},
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_understood_is_refused(given: Any) -> None:
    """And says who told it; nothing of it takes effect."""
    with pytest.raises(Refused, match="pod-b|scope"):
        records.read(given, "pod-b")


def test_a_record_of_a_newer_version_may_say_more() -> None:
    """Unknown fields are not ours to judge."""
    assert records.read(GOOD | {"team": "x"}, "pod-b").id == "k-1"


@pytest.mark.parametrize(
    ("mine", "theirs", "step"),
    [
        (None, a_kill(), Step.ENGAGE),
        (None, a_kill(lifted=Lift(1.0, "x", "y")), Step.REMEMBER),
        (a_kill(), a_kill(lifted=Lift(1.0, "x", "y")), Step.LIFT),
        (a_kill(lifted=Lift(1.0, "x", "y")), a_kill(), Step.NOTHING),
        (a_kill(ttl_s=5.0), a_kill(), Step.OUTLAST),
        (a_kill(), a_kill(ttl_s=5.0), Step.NOTHING),
        (a_kill(ttl_s=5.0), a_kill(ttl_s=6.0), Step.OUTLAST),
        (a_kill(ttl_s=6.0), a_kill(ttl_s=5.0), Step.NOTHING),
    ],
)
def test_two_that_know_a_kill_differently(mine: Kill | None, theirs: Kill, step: Step) -> None:
    """The merge rules."""
    assert decide(mine, theirs) is step


# ── what people write ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_list_may_hold_blanks_and_repetitions() -> None:
    """``--peers`` and ``--peers-dns``; without a port it is the control plane's."""
    assert _listed(" 10.0.0.1:7071, 10.0.0.2:7071,,10.0.0.1:7071") == (A, B)
    assert _named("outrider-peers", "0.0.0.0:7071") == Address("outrider-peers", 7071)
    assert _named("outrider-peers:9", "0.0.0.0:7071") == Address("outrider-peers", 9)


@pytest.mark.parametrize("text", ["10.0.0.1", "10.0.0.1:x", ":7071", ",".join(f"h{n}:1" for n in range(MAX_PEERS + 1))])
def test_a_list_that_is_none_is_refused(text: str) -> None:
    """Wrong usage: exit code 2, with the option's name."""
    with pytest.raises(CliError, match="--peers") as refused:
        _listed(text)
    assert refused.value.exit_code == 2


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_name_gives_every_address_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A and AAAA alike; all sidecars see the same list."""

    def found(*_: Any, **__: Any) -> Any:
        kinds = ((socket.AF_INET6, "fd00::2"), (socket.AF_INET, "10.0.0.2"), (socket.AF_INET, "10.0.0.1"))
        return [(kind, socket.SOCK_STREAM, 6, "", (host, 7071)) for kind, host in (*kinds, kinds[1])]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    assert await Names("peers", 7071).look_up() == [A, B, Address("fd00::2", 7071)]


async def test_a_name_that_cannot_be_looked_up_leaves_what_was_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server, no such name, one that never answers: nothing was learnt, and no second thread is spent on it."""
    asked: list[str] = []
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def look_up(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        return await asyncio.shield(answer)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up, raising=False)
    names = Names("peers", 7071)
    assert await names.look_up(0.01) is None
    assert await names.look_up(0.01) is None
    assert asked == ["peers"]
    answer.set_exception(socket.gaierror("no such name"))
    assert await names.look_up(1.0) is None
    assert await names.look_up(1.0) is None
    assert asked == ["peers", "peers"]
