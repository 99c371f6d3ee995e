"""Three real sidecars that know each other: one stop for all, silence that is named, and what was missed taken over."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from outrider.cli import main
from outrider.ledger.verify import verify
from outrider.testing.gateway import GatewayProcess
from outrider.testing.script import hold
from outrider.testing.upstream_process import UpstreamProcess
from tests.support.eventually import eventually
from tests.support.fleet_kit import Trio
from tests.support.real_gateway import lift_all

PEER_TIMEOUT_S = 2.0
WITHIN_S = 30.0


@pytest.fixture(scope="module")
def upstream() -> Iterator[UpstreamProcess]:
    with UpstreamProcess({"/out": [hold(json="paid")], "/get": [hold(json=7)]}) as running:
        yield running


@pytest.fixture(scope="module")
def shared(upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    with Trio(tmp_path_factory.mktemp("trio"), policy(upstream), timeout_s=PEER_TIMEOUT_S) as trio:
        yield trio


@pytest.fixture
def trio(shared: Trio) -> Iterator[Trio]:
    """All of them run, know each other and stop nothing."""
    assert eventually(shared.in_step, WITHIN_S)
    yield shared
    for one in shared:
        if not one.running:
            one.start()
        os.kill(one.pid, signal.SIGCONT)
    assert eventually(shared.in_step, WITHIN_S)
    for one in shared:
        (one.data / "KILL").unlink(missing_ok=True)
        lift_all(one)
    assert eventually(lambda: not any(shared.scopes(n) for n in range(3)), WITHIN_S)


def policy(upstream: UpstreamProcess) -> dict[str, Any]:
    return {
        "domain": {"bulkhead": {"maxConcurrent": 400, "maxQueue": 400}},
        "defaults": {"timeouts": {"total": "120s", "perTry": "100s"}},
        "upstreams": {"pay": {"http": {"url": upstream.url}}},
        "tools": [{"match": "pay.get", "effect": "read"}],
        "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
    }


def kill(sidecar: GatewayProcess, scope: str) -> dict[str, Any]:
    status, receipt = sidecar.control("POST", "/v1/kills", {"scope": scope, "reason": "it loops"})
    assert status == 201, receipt
    return receipt


def lift(sidecar: GatewayProcess, kill_id: str) -> dict[str, Any]:
    status, lifted = sidecar.control("DELETE", f"/v1/kills/{kill_id}", {"reason": "mended"})
    assert status == 200, lifted
    return lifted


def code(sidecar: GatewayProcess, agent: str = "ann") -> str:
    return str(sidecar.call("pay.nothing", agent=agent)[1].get("code"))


def test_a_kill_asked_of_one_is_in_force_at_all_when_it_is_answered(trio: Trio) -> None:
    """The same id everywhere; the receipt names both peers; every ledger has it, and who heard."""
    receipt = kill(trio[0], "agent:ann")
    assert receipt["complete"] is True
    assert {(peer["peer"], peer["answered"]) for peer in receipt["peers"]} == {
        (address, True) for address in trio.addresses[1:]
    }
    for sidecar in trio:
        assert code(sidecar) == "killed"
        assert [one["id"] for one in sidecar.control("GET", "/v1/kills")[1]["kills"]] == [receipt["id"]]
        records = sidecar.control("GET", "/v1/ledger?type=kill.engaged&limit=1")[1]["records"]
        assert records[0]["data"]["id"] == receipt["id"]
    assert eventually(lambda: bool(trio[0].control("GET", "/v1/ledger?type=kill.reached")[1]["records"]))
    told = trio[0].control("GET", "/v1/ledger?type=kill.reached&limit=1")[1]["records"][0]["data"]
    assert (told["id"], told["change"], told["complete"]) == (receipt["id"], "engaged", True)


def test_a_lift_asked_of_another_releases_all(trio: Trio) -> None:
    """With its reason; the answer names both peers."""
    receipt = kill(trio[0], "agent:ann")
    lifted = lift(trio[1], receipt["id"])
    assert lifted["complete"] is True and len(lifted["peers"]) == 2 and lifted["still"] == []
    for n, sidecar in enumerate(trio):
        assert trio.scopes(n) == set()
        past = sidecar.control("GET", "/v1/kills?history=true")[1]["lifted"][0]
        assert (past["id"], past["lift_reason"]) == (receipt["id"], "mended")


def test_one_that_was_killed_takes_over_what_it_missed_before_it_serves(trio: Trio) -> None:
    """SIGKILL, a kill meanwhile, a restart: its first answer to an agent is a refusal."""
    before = kill(trio[0], "agent:bob")
    trio[2].kill9()
    receipt = kill(trio[0], "agent:ann")
    lift(trio[1], before["id"])
    assert receipt["complete"] is False
    silent = [peer for peer in receipt["peers"] if not peer["answered"]]
    assert [peer["peer"] for peer in silent] == [trio.addresses[2]] and silent[0]["error"]
    trio[2].start()
    assert code(trio[2]) == "killed"
    assert code(trio[2], "bob") != "killed"
    assert trio[2].control("GET", "/v1/peers")[1]["caught_up"] is True


def test_one_that_is_stopped_is_named_and_learns_it_later(trio: Trio) -> None:
    """SIGSTOP: the receipt waits for it so long and no longer, and names it. Afterwards it is told by itself."""
    os.kill(trio[2].pid, signal.SIGSTOP)
    began = time.monotonic()
    receipt = kill(trio[0], "agent:ann")
    took_s = time.monotonic() - began
    assert PEER_TIMEOUT_S * 0.9 <= took_s < PEER_TIMEOUT_S + 5
    assert receipt["complete"] is False
    assert {peer["peer"]: peer["answered"] for peer in receipt["peers"]} == {
        trio.addresses[1]: True,
        trio.addresses[2]: False,
    }
    assert code(trio[1]) == "killed"
    assert trio.peers(0)[trio.addresses[2]]["state"] == "silent"
    assert receipt["id"] in trio.peers(0)[trio.addresses[2]]["missed"]
    os.kill(trio[2].pid, signal.SIGCONT)
    assert eventually(lambda: trio.scopes(2) == {"agent:ann"}, WITHIN_S)
    assert eventually(lambda: trio.peers(0)[trio.addresses[2]]["missed"] == [], WITHIN_S)


def test_one_that_slept_through_a_lift_does_not_bring_the_kill_back(trio: Trio) -> None:
    """It keeps its kill until it hears; what it knows does not undo what the others know, over a restart neither."""
    receipt = kill(trio[0], "agent:ann")
    trio[2].kill9()
    lifted = lift(trio[0], receipt["id"])
    assert lifted["complete"] is False
    trio[2].start()
    assert code(trio[2]) != "killed"
    trio[0].kill9()
    trio[0].start()
    assert eventually(trio.in_step, WITHIN_S)
    assert [trio.scopes(n) for n in range(3)] == [set(), set(), set()]


def test_without_any_peer_it_serves_with_the_kills_on_its_disk_and_says_so(trio: Trio) -> None:
    """Sidecars that wait for each other would never start."""
    kill(trio[0], "agent:ann")
    for sidecar in trio:
        sidecar.kill9()
    trio[1].start()
    assert code(trio[1]) == "killed"
    assert trio[1].control("GET", "/v1/peers")[1]["caught_up"] is False
    assert "serving with the kills that are known here" in trio[1].log


def test_the_file_on_one_disk_stops_all_and_is_not_released_from_elsewhere(trio: Trio) -> None:
    """The others' end of its kill finds the file, and a kill of its own in its place."""
    (trio[2].data / "KILL").touch()
    assert eventually(lambda: all(trio.scopes(n) == {"global"} for n in range(3)), WITHIN_S)
    lift_all(trio[0])
    assert code(trio[2]) == "killed"
    assert eventually(lambda: all(trio.scopes(n) == {"global"} for n in range(3)), WITHIN_S)
    (trio[2].data / "KILL").unlink()
    lift_all(trio[1])
    assert eventually(lambda: not any(trio.scopes(n) for n in range(3)), WITHIN_S)


def test_lists_asked_of_one_hold_what_all_have(trio: Trio, capsys: pytest.CaptureFixture[str]) -> None:
    """Agents, calls and runs, each row with its sidecar; who does not answer is named."""
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(one.call, "pay.out", agent=f"a{n}", run=f"r{n}") for n, one in enumerate(trio)]
        assert eventually(lambda: len(trio[0].control("GET", "/v1/calls")[1]["calls"]) == 3)
        for what, key in (("agents", "name"), ("calls", "agent"), ("runs", "agent")):
            found = trio[1].control("GET", f"/v1/{what}")[1]
            whose = {row[key]: row["sidecar"].rpartition(":")[2] for row in found[what]}
            assert {f"a{n}": whose.get(f"a{n}") for n in range(3)} == {
                f"a{n}": address.rpartition(":")[2] for n, address in enumerate(trio.addresses)
            }
            assert all(peer["answered"] for peer in found["peers"])
        kill(trio[0], "global")
        assert [call.result()[1]["code"] for call in calls] == ["killed"] * 3
    trio[2].kill9()
    assert main(["agents", "ls", "--data", str(trio[0].data)]) == 0
    told = capsys.readouterr()
    assert f"({trio.addresses[2]}) did not answer" in told.err
    assert "SIDECAR" in told.out and "a1" in told.out and "a2" not in told.out


def test_the_command_line_says_loudly_that_it_was_not_everywhere(
    trio: Trio, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 3, and who did not answer, and why; 0 when all did."""
    data = ("--data", str(trio[0].data))
    assert main(["kill", "agent:ann", *data]) == 0
    assert "on 3 of 3 sidecars" in capsys.readouterr().out
    trio[2].kill9()
    assert main(["kill", "agent:bob", *data]) == 3
    told = capsys.readouterr()
    assert "Stopped agent:bob on 2 of 3 sidecars" in told.out
    assert "NOT EVERYWHERE: 1 of 2 peers did not answer." in told.err and trio.addresses[2] in told.err
    assert main(["revive", "agent:bob", "--reason", "x", *data]) == 3
    assert "They stay stopped until they hear of it" in capsys.readouterr().err
    assert main(["kill", "agent:bob", "--json", *data]) == 3
    assert json.loads(capsys.readouterr().out)["complete"] is False
    assert main(["peers", "ls", *data]) == 0
    assert "silent" in capsys.readouterr().out
    trio[2].start()
    assert eventually(trio.in_step, WITHIN_S)
    assert main(["revive", "agent:bob", "--reason", "x", *data]) == 0


def test_a_global_kill_reports_500_calls_over_three_sidecars_each_once(trio: Trio, upstream: UpstreamProcess) -> None:
    """Every call is in the receipt, has one end, and every ledger verifies."""
    count = 500
    ends: list[tuple[int, Any]] = []
    threads = [
        threading.Thread(
            target=lambda n=n: ends.append(trio[n % 3].call("pay.out" if n % 2 else "pay.get", agent=f"b{n % 7}"))
        )
        for n in range(count)
    ]
    for thread in threads:
        thread.start()

    def under_way() -> int:
        return sum(call["sent"] for call in trio[0].control("GET", "/v1/calls")[1]["calls"])

    assert eventually(lambda: under_way() == count, WITHIN_S)
    receipt = kill(trio[1], "global")
    for thread in threads:
        thread.join(WITHIN_S)
    assert receipt["complete"] is True
    assert len(ends) == count and {answer["code"] for _, answer in ends} <= {"killed", "outcome_unknown"}
    reported = [call["call_id"] for call in receipt["calls"]]
    assert len(reported) == count and set(reported) == {answer["call_id"] for _, answer in ends}
    assert sum(receipt["counts"].values()) == count
    for sidecar in trio:
        mine = [call for call in receipt["calls"] if call["sidecar"].endswith(sidecar.control_address[-5:])]
        assert len(mine) == count // 3 + (sidecar is not trio[2])
    lift_all(trio[1])
    for sidecar in trio:
        assert eventually(lambda one=sidecar: not one.control("GET", "/v1/calls")[1]["calls"])  # type: ignore[misc]
        finished = _ends(sidecar)
        assert len(finished) == len(set(finished))
        assert verify(sidecar.data).ok


def _ends(sidecar: GatewayProcess) -> list[str]:
    """The calls whose end the ledger holds, once for each end."""
    found: list[str] = []
    before = ""
    while True:
        page = sidecar.control("GET", f"/v1/ledger?type=call.finished&limit=1000{before}")[1]
        found += [record["call_id"] for record in page["records"]]
        if page["next_before"] is None:
            return found
        before = f"&before={page['next_before']}"


def test_a_wrong_secret_is_named_and_opens_nothing(upstream: UpstreamProcess, tmp_path: Path, trio: Trio) -> None:
    """A sidecar with another secret is silent to the others, and they to it; its kill stays its own."""
    other = tmp_path / "other.secret"
    other.write_text("another-secret-than-theirs")
    arguments = ("--peers", ",".join(trio.addresses), "--peer-secret", str(other))
    with GatewayProcess(policy(upstream), tmp_path / "data", arguments=arguments) as stranger:
        receipt = kill(stranger, "agent:ann")
        assert receipt["complete"] is False
        assert {peer["error"] for peer in receipt["peers"]} == {
            "it refuses our secret (401); give all sidecars the same --peer-secret"
        }
        assert trio.scopes(0) == set()
