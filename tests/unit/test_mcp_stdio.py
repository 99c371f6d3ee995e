"""A server that is a child, as the pipeline sees it: real processes, and an honest word on what became of a call."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from outrider.calls import OutcomeKind, Reason
from outrider.mcp_wire import Message
from outrider.policy.plans import McpUpstream, Plan, Secret, Upstream
from outrider.upstreams.mcp import child_driver, liveness, stdio, supervision
from outrider.upstreams.mcp.caller import McpCaller
from outrider.upstreams.mcp.child_driver import ChildDriver
from tests.support.child_kit import Kit, is_alive

SERVER = Path(__file__).parents[1] / "support" / "mcp_server.py"


async def until(holds: Any, within_s: float = 15.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("words", [(), ("modern",), ("banner",), ("modern", "banner")])
async def test_both_eras_are_found_out_and_spoken(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Also by a program that greets on stdout first."""
    async with Kit(tmp_path, *words) as kit:
        outcome = await kit.call("echo", n=5)
        assert outcome.value == {"value": 5}
        (session,) = kit.driver.snapshot()["sessions"]
        assert session["version"] == ("2026-07-28" if "modern" in words else "2025-11-25")
        assert set((await kit.driver.catalog()).tools) == {"echo", "slow", "get_note"}


async def test_a_server_that_leaves_the_probe_unanswered_is_of_the_older_era(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while; and it is remembered when it is started again."""
    monkeypatch.setattr(stdio, "PROBE_S", 0.3)
    async with Kit(tmp_path, "mute") as kit:
        assert (await kit.call("echo", n=1)).ok
        await kit.call("die")
        monkeypatch.setattr(stdio, "PROBE_S", 30.0)
        assert (await asyncio.wait_for(kit.call("echo", n=2), 10)).ok


async def test_two_hundred_calls_share_one_child(tmp_path: Path) -> None:
    """All at once, each with its own answer."""
    async with Kit(tmp_path) as kit:
        outcomes = await asyncio.gather(*(kit.call("slow", n=n, s=0.3) for n in range(200)))
        assert [outcome.value for outcome in outcomes] == [{"value": n} for n in range(200)]
        assert len(kit.pids) == 1


async def test_many_first_calls_start_one_child(tmp_path: Path) -> None:
    """And a caller that loses patience while it starts does not end it for the others."""
    async with Kit(tmp_path) as kit:
        hasty = kit.send_for(kit.attempt("echo", n=0), 0.001)
        outcomes = await asyncio.gather(hasty, *(kit.call("echo", n=n) for n in range(20)))
        assert outcomes[0].kind is OutcomeKind.NOT_EXECUTED
        assert all(outcome.ok for outcome in outcomes[1:]) and len(kit.pids) == 1


async def test_a_call_in_a_child_that_exits_is_unknown_and_executed_once(tmp_path: Path) -> None:
    """It may have run; nothing here sends it again."""
    async with Kit(tmp_path) as kit:
        await kit.call("echo", n=0)
        slow = asyncio.ensure_future(kit.call("slow", n=1, s=30))
        await until(lambda: "slow 1" in kit.lines)
        died = await kit.call("die")
        for outcome in (died, await slow):
            assert outcome.kind is OutcomeKind.UNKNOWN
            assert outcome.failure is not None and "exited with code 3" in outcome.failure.text
        assert kit.lines.count("die") == 1 and kit.lines.count("slow 1") == 1


async def test_a_child_that_crashed_once_is_started_again_by_the_next_call(tmp_path: Path) -> None:
    """Without a wait; the call before says nothing about this one."""
    async with Kit(tmp_path) as kit:
        await kit.call("die")
        assert (await kit.call("echo", n=1)).ok
        assert len(kit.pids) == 2 and kit.child["restarts"] == 1


async def test_a_child_that_keeps_crashing_is_waited_with(tmp_path: Path) -> None:
    """And the refusal says until when, and that nothing was executed."""
    async with Kit(tmp_path) as kit:
        await kit.call("die")
        await kit.call("die")
        outcome = await kit.call("echo", n=1)
        assert outcome.kind is OutcomeKind.NOT_EXECUTED and outcome.failure is not None
        assert outcome.failure.reason is Reason.CONNECT and 8 < (outcome.failure.retry_after_s or 0) <= 10
        assert "started again in" in outcome.failure.text and len(kit.pids) == 2
        assert kit.child["state"] == "waiting" and kit.child["last_error"] == "exited with code 3"


async def test_a_child_killed_from_outside_is_noticed_without_a_call(tmp_path: Path) -> None:
    """The session that is left is not used."""
    async with Kit(tmp_path) as kit:
        await kit.call("echo", n=1)
        os.kill(kit.pids[0], signal.SIGKILL)
        await until(lambda: kit.child["state"] == "waiting")
        assert kit.child["last_error"] == "was ended by SIGKILL"
        assert (await kit.call("echo", n=2)).ok


async def test_a_program_that_cannot_start_is_not_executed_and_says_why(tmp_path: Path) -> None:
    """With what it said last for people, not for agents."""
    async with Kit(tmp_path, "crash") as kit:
        outcome = await kit.call("echo", n=1)
        assert outcome.kind is OutcomeKind.NOT_EXECUTED and outcome.failure is not None
        assert "exited with code 1" in outcome.failure.text and "nothing" not in outcome.failure.text
        assert kit.child["last_line"] == "no module named nothing"
    async with Kit(tmp_path, command=("/nowhere/at-all",)) as kit:
        outcome = await kit.call("echo", n=1)
        assert outcome.failure is not None and "No such file or directory" in outcome.failure.text


async def test_one_that_never_answers_is_ended_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The startup probe."""
    monkeypatch.setattr(child_driver, "START_S", 1.0)
    async with Kit(tmp_path, "deaf", "stubborn") as kit:
        outcome = await kit.call("echo", n=1)
        assert outcome.kind is OutcomeKind.NOT_EXECUTED and outcome.failure is not None
        assert "no handshake within 1 s" in outcome.failure.text
        await until(lambda: kit.child["last_error"] == "was ended, because its handshake failed")
        assert [pid for pid in kit.pids if is_alive(pid)] == []


# ── giving up ──


async def test_a_call_that_is_given_up_is_unknown_and_the_server_is_told(tmp_path: Path) -> None:
    """And its late answer reaches nobody."""
    async with Kit(tmp_path) as kit:
        await kit.call("echo", n=0)
        given_up = await kit.send_for(kit.attempt("slow", s=0.5), 0.2)
        assert given_up.kind is OutcomeKind.UNKNOWN
        told = await kit.call("cancelled")
        assert len(told.value["value"]) == 1
        await until(lambda: kit.driver.snapshot()["sessions"][0]["late"] == 1)


async def test_a_call_that_never_got_its_turn_is_not_executed(tmp_path: Path) -> None:
    """The child reads no more; the first fills the pipe, the others wait before it."""
    async with Kit(tmp_path) as kit:
        stopped = kit.attempt("stop")
        first = asyncio.ensure_future(kit.send_for(stopped, 3.0))
        await until(lambda: "stop" in kit.lines)
        big = kit.attempt("echo", n="x" * 500_000)
        second = asyncio.ensure_future(kit.send_for(big, 2.0))
        await until(lambda: big.sent)
        third = await kit.send_for(kit.attempt("echo", n=3), 0.5)
        assert third.kind is OutcomeKind.NOT_EXECUTED
        assert (await second).kind is OutcomeKind.UNKNOWN and (await first).kind is OutcomeKind.UNKNOWN


async def test_a_child_that_hangs_is_ended_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked when a call was given up and nothing is under way."""
    monkeypatch.setattr(liveness, "PERIOD_S", 0.3)
    monkeypatch.setattr(liveness, "ANSWER_S", 0.3)
    async with Kit(tmp_path) as kit:
        await kit.call("echo", n=0)
        assert (await kit.send_for(kit.attempt("freeze"), 0.3)).kind is OutcomeKind.UNKNOWN
        await until(lambda: kit.child["state"] == "waiting")
        assert kit.child["last_error"] == "did not answer any more"
        assert (await kit.call("echo", n=1)).ok


@pytest.mark.parametrize("words", [(), ("modern",)])
async def test_a_healthy_child_is_asked_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Idle, and in the middle of a long call, which no question disturbs."""
    monkeypatch.setattr(liveness, "PERIOD_S", 0.1)
    monkeypatch.setattr(liveness, "ANSWER_S", 2.0)
    async with Kit(tmp_path, *words) as kit:
        await kit.call("echo", n=0)
        await asyncio.sleep(0.5)
        assert (await kit.call("slow", n=1, s=0.5)).ok
        assert len(kit.pids) == 1 and kit.child["state"] == "up"


# ── bad children ──


@pytest.mark.parametrize(
    ("tool", "why"),
    [
        ("garbage", "no JSON-RPC message"),
        ("flood", "that are no answers"),
        ("long", "wrote too much"),
    ],
)
async def test_a_child_that_prints_without_end_is_ended(tmp_path: Path, tool: str, why: str) -> None:
    """Bounded in lines, in messages and in bytes; what was under way is unknown."""
    async with Kit(tmp_path, max_response_bytes=100_000) as kit:
        outcome = await kit.call(tool, bytes=200_000)
        assert outcome.kind is OutcomeKind.UNKNOWN and outcome.failure is not None
        assert why in outcome.failure.text and outcome.failure.reason is Reason.PROTOCOL
        assert (await kit.call("echo", n=1)).ok and len(kit.pids) == 2


async def test_no_secret_of_a_child_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It gets it, it prints it, and the log has its name."""
    env = {"API_KEY": Secret("hunter2-hunter2", "env:UP_KEY")}
    async with Kit(tmp_path, env=env) as kit:
        assert (await kit.call("env")).value["value"]["API_KEY"] == "hunter2-hunter2"
        with caplog.at_level("INFO"):
            await kit.call("stderr", text="key=hunter2-hunter2")
            await until(lambda: "key=" in caplog.text)
        assert "hunter2" not in caplog.text and "«env:UP_KEY»" in caplog.text


# ── between server and client ──


class Caller(McpCaller):
    def __init__(self, **meta: Any) -> None:
        super().__init__("2025-11-25", {"elicitation": {}}, {"_meta": meta})
        self.told: list[Message] = []
        self.asked: list[Message] = []

    def notify(self, message: Message) -> None:
        self.told.append(message)

    async def ask(self, method: str, params: Message) -> Message:
        self.asked.append(params)
        return {"action": "accept", "content": {"which": "this one"}}


async def committed() -> bool:
    return True


async def test_progress_reaches_the_caller_whose_it_is(tmp_path: Path) -> None:
    """With the token that it chose itself."""
    async with Kit(tmp_path) as kit:
        callers = [Caller(progressToken=f"mine-{n}") for n in range(5)]
        await asyncio.gather(*(kit.send(kit.attempt("progress", caller=caller)) for caller in callers))
        tokens = [[told["params"]["progressToken"] for told in caller.told] for caller in callers]
        assert tokens == [[f"mine-{n}"] for n in range(5)]


async def test_what_the_server_asks_reaches_the_one_caller_or_nobody(tmp_path: Path) -> None:
    """Its messages do not say which call they are about: with two under way the wrong client could be asked."""
    async with Kit(tmp_path) as kit:
        caller = Caller()
        attempt = kit.attempt("ask", caller=caller)
        attempt.commit = committed
        outcome = await kit.send(attempt)
        assert outcome.value["structuredContent"]["value"]["content"] == {"which": "this one"}
        other = asyncio.ensure_future(kit.call("slow", n=1, s=1.0))
        await until(lambda: "slow 1" in kit.lines)
        again = kit.attempt("ask", caller=caller)
        again.commit = committed
        refused = await kit.send(again)
        assert "nobody is asked" in refused.value["structuredContent"]["value"]["message"]
        assert len(caller.asked) == 1 and (await other).ok


# ── kept up ──


async def test_one_that_is_started_at_start_needs_no_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is kept up without one."""
    monkeypatch.setattr(child_driver, "AGAIN_S", 0.05)
    monkeypatch.setattr(supervision, "FIRST_WAIT_S", 0.2)
    async with Kit(tmp_path, start="atStart") as kit:
        for n in range(3):
            await until(lambda n=n: len(kit.pids) == n + 1 and kit.child["state"] == "up")
            os.kill(kit.pids[-1], signal.SIGKILL)
        await until(lambda: len(kit.pids) == 4)


async def test_closing_ends_the_child_and_nothing_starts_it_again(tmp_path: Path) -> None:
    """A policy without it, or the end of the sidecar."""
    async with Kit(tmp_path, "family", start="atStart") as kit:
        await kit.call("echo", n=1)
        family = [int(word) for word in kit.journal.with_suffix(".family").read_text().split()]
        waiting = asyncio.ensure_future(kit.call("slow", n=1, s=30))
        await until(lambda: "slow 1" in kit.lines)
        await kit.driver.close()
        assert [pid for pid in [*kit.pids, *family] if is_alive(pid)] == []
        assert (await waiting).kind is OutcomeKind.UNKNOWN
        assert (await kit.call("echo", n=2)).kind is OutcomeKind.NOT_EXECUTED
        assert len(kit.pids) == 1


async def test_the_reference_server_is_spoken_to(tmp_path: Path) -> None:
    """The ``mcp`` package's own, with its tools, its errors and its end in the middle of a call."""
    journal = tmp_path / "journal"
    settings = McpUpstream(command=(sys.executable, str(SERVER), str(journal)), cwd=str(tmp_path))
    driver = ChildDriver("up", settings)
    kit = Kit(tmp_path)
    kit.driver = driver

    def plan(tool: str) -> Plan:
        return Plan(f"up.{tool}", Upstream("up", mcp=settings))

    try:
        read = await driver.send(kit.attempt("read_note", name="a"), plan("read_note"), 0.0)
        assert read.ok and read.value == {"result": "the note a"}
        wrote = await driver.send(kit.attempt("write_note", name="b"), plan("write_note"), 0.0)
        assert wrote.kind is OutcomeKind.DEFINITE and "no room for b" in (wrote.failure.text if wrote.failure else "")
        died = await driver.send(kit.attempt("write_and_die", name="c"), plan("write_and_die"), 0.0)
        assert died.kind is OutcomeKind.UNKNOWN
        assert journal.read_text().splitlines() == ["read a", "write b", "died c"]
        assert "read_note" in (await driver.catalog()).tools
    finally:
        await driver.close()
