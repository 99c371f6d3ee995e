"""Where the scenarios happen: one sidecar, one counting upstream and one agent's process for all of them, and a folder,
names and helpers for each."""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from outrider.testing.conformance.agent import AgentProcess, Playing
from outrider.testing.conformance.driver import Driver
from outrider.testing.conformance.journal import DONE, OVER, Gates, Journal
from outrider.testing.conformance.policy import policy
from outrider.testing.conformance.script import Asked, Entry, Mode, Part, Play, Report, Script, Step
from outrider.testing.conformance.story import Story
from outrider.testing.conformance.waiting import PATIENCE_S, wait_for
from outrider.testing.conformance.wire_proxy import Dialect, WireProxy
from outrider.testing.gateway import GatewayProcess
from outrider.testing.script import respond
from outrider.testing.upstream_process import UpstreamProcess

AGENT = "conformance"
CONNECT_WAIT_S = 1.0
PATIENT_CONNECT_WAIT_S = 5.0
"""Behind the proxy: after a refusal by version an adapter waits before it asks again."""
REASON = "a conformance drill"


class Stage:
    """What all scenarios of one driver share."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.folder = Path(tempfile.mkdtemp(prefix="outrider-conformance-"))
        self.upstream = UpstreamProcess()
        self.gateway: GatewayProcess | None = None
        self.proxy: WireProxy | None = None
        self._numbers = itertools.count(1)
        self._main: AgentProcess | None = None
        self._second: AgentProcess | None = None

    def start(self) -> None:
        self.upstream.start()
        self.gateway = GatewayProcess(policy(self.upstream.url)).start()
        self._main = self._new_agent(self.gateway.url)

    def close(self) -> None:
        """Ends everything, also after a start that failed half-way."""
        for agent in (self._main, self._second):
            if agent is not None:
                agent.kill9()
        if self.proxy is not None:
            self.proxy.stop()
        if self.gateway is not None:
            self.gateway.close()
        self.upstream.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def sidecar(self) -> GatewayProcess:
        assert self.gateway is not None
        return self.gateway

    @property
    def playing_pid(self) -> int:
        """Of the process that plays, whatever it does at the moment."""
        assert self._main is not None
        return self._main.pid

    def agent(self) -> AgentProcess:
        """The process that plays; another one where the one before died or cannot come to an end."""
        if self._main is None or not self._main.await_idle():
            self._end(self._main)
            self._main = self._new_agent(self.sidecar.url)
        self._main.await_ready()
        return self._main

    def second_agent(self) -> AgentProcess:
        """A process behind a proxy, for what the first must not suffer."""
        if self.proxy is None:
            self.proxy = WireProxy(self.sidecar.url)
            self.proxy.start()
        if self._second is None or not self._second.await_idle():
            self._end(self._second)
            self._second = self._new_agent(self.proxy.url, PATIENT_CONNECT_WAIT_S)
        self._second.await_ready()
        return self._second

    def _new_agent(self, url: str, connect_wait_s: float = CONNECT_WAIT_S) -> AgentProcess:
        env = self.sidecar.env | {
            "OUTRIDER_URL": url,
            "OUTRIDER_AGENT": AGENT,
            "OUTRIDER_CONNECT_WAIT": f"{connect_wait_s:g}",
        }
        return AgentProcess(self.driver, self.folder / f"agent-{next(self._numbers)}", env)

    @staticmethod
    def _end(agent: AgentProcess | None) -> None:
        if agent is not None:
            agent.kill9()

    def scene(self) -> Scene:
        folder = self.folder / f"scene-{next(self._numbers)}"
        folder.mkdir()
        return Scene(self, folder, next(self._numbers))


class Scene:
    """What one scenario uses. Its tools' names are its own: no breaker and no bar of another scenario is in the way."""

    def __init__(self, stage: Stage, folder: Path, number: int) -> None:
        self.stage = stage
        self.folder = folder
        self._number = number
        self._names = itertools.count(1)
        self._parts: list[Part] = []
        self._gates = Gates(folder)
        self._journal = Journal(folder)

    @property
    def sidecar(self) -> GatewayProcess:
        return self.stage.sidecar

    def close(self) -> None:
        """Lets everything go, and lifts every kill."""
        self._gates.open(OVER)
        if not self.sidecar.running:
            self.sidecar.start()
        for kill in self.sidecar.control("GET", "/v1/kills")[1]["kills"]:
            self.sidecar.control("DELETE", f"/v1/kills/{kill['id']}", {"reason": "the scenario is over"})

    # ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────

    def tool(self, kind: str, *steps: Step, governed_as: str = "") -> str:
        """A tool of this scenario; its name. ``kind`` is a prefix that the policy knows."""
        name = f"{kind}_{self._number}_{next(self._names)}"
        self._parts.append(Part(name, steps or (Step(),), governed_as.format(name=name)))
        return name

    def begin(self, mode: Mode, *turns: str | Sequence[str], agent: AgentProcess | None = None, **more: Any) -> Playing:
        """An agent calls these tools, one after the other, those of a list at once; ``text`` is their argument."""
        text = more.pop("text", "")
        play = Play(str(self.folder), tuple(self._parts), script(*turns, text=text), mode, **more)
        return (agent or self.stage.agent()).play(play)

    def run(self, mode: Mode, *turns: str | Sequence[str], **more: Any) -> Report:
        """The same, to its end."""
        return self.begin(mode, *turns, **more).report()

    def open(self, gate: str) -> None:
        self._gates.open(gate)

    def kill(self, scope: str) -> dict[str, Any]:
        """Engage a kill switch; its receipt."""
        status, receipt = self.sidecar.control("POST", "/v1/kills", {"scope": scope, "reason": REASON})
        assert status == 201, receipt
        return dict(receipt)

    def run_when_back(self, mode: Mode, *turns: str | Sequence[str]) -> Report:
        """The same, once the agent and its sidecar have found each other again, which they do by themselves."""
        self.await_connected()
        return self.run(mode, *turns)

    def behind_proxy(self, dialect: Dialect) -> AgentProcess:
        """The second process; from now on it and the sidecar speak like this."""
        agent = self.stage.second_agent()
        assert self.stage.proxy is not None
        self.stage.proxy.speak(dialect)
        return agent

    def remote_answers(self, tool: str, answer: Any) -> None:
        """What the upstream says when ``tool`` is called there."""
        self.stage.upstream.script(f"/{tool}", respond(json=answer))

    def remote_calls(self, tool: str) -> list[Any]:
        """The bodies of the requests that came for it, counted on the wire."""
        return [json.loads(request.body) for request in self.stage.upstream.requests(f"/{tool}")]

    # ── what was seen ────────────────────────────────────────────────────────────────────────────────────────────

    def journal(self) -> list[Entry]:
        """All that ran, in order."""
        return self._journal.entries()

    def executions(self, tool: str) -> int:
        """How often the function really began."""
        return len(self.began(tool))

    def began(self, tool: str) -> list[Entry]:
        return [entry for entry in self._journal.entries("began") if entry.tool == tool]

    def ends(self, tool: str) -> list[str]:
        """How its executions ended: ``returned``, ``raised``, ``cancelled``."""
        return [entry.what for entry in self._journal.entries() if entry.tool == tool and entry.what != "began"]

    def await_execution(self, tool: str, count: int = 1) -> None:
        wait_for(lambda: self.executions(tool) >= count, f"execution {count} of {tool}")

    def await_end(self, tool: str, count: int = 1) -> None:
        wait_for(lambda: len(self.ends(tool)) >= count, f"the end of execution {count} of {tool}")

    def await_agents_done(self) -> None:
        """The agents' runs are over; the loop they ran on may stay."""
        wait_for(lambda: self._gates.is_open(DONE), "the end of the agent's run")

    def in_ledger(self, tool: str) -> list[Story]:
        """The calls of a tool as the ledger has them now, oldest first. ``tool``: with its group, or a local one."""
        name = tool if "." in tool else f"local.{tool}"
        _, page = self.sidecar.control("GET", f"/v1/ledger?tool={name}&type=call.received&limit=1000")
        ids = [record["call_id"] for record in reversed(page["records"])]
        return [Story(self.sidecar.control("GET", f"/v1/calls/{one}")[1]["records"]) for one in ids]

    def story(self, tool: str, holds: Callable[[Story], object] = lambda story: story.ended) -> Story:
        """The one call of a tool, once it has an end and ``holds``. Fails where there are two calls."""

        def look() -> Story | None:
            found = self.in_ledger(tool)
            assert len(found) < 2, f"{tool} was called {len(found)} times"
            return found[0] if found and found[0].ended and holds(found[0]) else None

        return wait_for(look, f"the end of {tool} in the ledger")

    def stories(self, tool: str, count: int) -> list[Story]:
        """The calls of a tool, once they have ended. Fails where there are more."""

        def look() -> list[Story]:
            found = self.in_ledger(tool)
            assert len(found) <= count, f"{tool} was called {len(found)} times, not {count}"
            return found if len(found) == count and all(story.ended for story in found) else []

        return wait_for(look, f"the end of {count} calls of {tool} in the ledger")

    def await_connected(self, within_s: float = PATIENCE_S) -> None:
        """The agent's process and its sidecar have found each other."""
        pid = self.stage.playing_pid

        def look() -> bool:
            agents = self.sidecar.control("GET", "/v1/agents")[1]["agents"]
            instances = [one for agent in agents for one in agent["instances"]]
            return any(one["pid"] == pid and one["state"] == "connected" for one in instances)

        wait_for(look, "the agent's connection", within_s)


def script(*turns: str | Sequence[str], text: str = "") -> Script:
    """Turns in short: a tool's name, or the names of those that are called at once."""
    spread = [(turn,) if isinstance(turn, str) else tuple(turn) for turn in turns]
    return tuple(tuple(Asked(name, text) for name in turn) for turn in spread)
