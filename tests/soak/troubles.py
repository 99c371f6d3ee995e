"""What goes wrong in a soak, one thing after the other, by chance. Each trouble ends what it began."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from tests.soak.world import World

KILL_S = 0.7
"""How long a kill stays engaged."""
AWAY_S = 1.0

Trouble = Callable[[World], None]


def nothing(world: World) -> None:
    time.sleep(world.dice.uniform(0.2, 1.5))


def kill_an_agent(world: World) -> None:
    _kill(world, f"agent:{world.dice.choice(world.frameworks)}")


def kill_a_tool(world: World) -> None:
    _kill(world, world.dice.choice(("tool:local.write_*", "tool:local.slow_read", "upstream:remote")))


def kill_everything(world: World) -> None:
    _kill(world, "global")


def kill_a_run(world: World) -> None:
    runs = [call["run"] for call in world.control("GET", "/v1/calls")["calls"] if call["run"]]
    if runs:
        _kill(world, f"run:{world.dice.choice(runs)}")


def _kill(world: World, scope: str) -> None:
    receipt = world.control("POST", "/v1/kills", {"scope": scope, "reason": "a drill of the soak"})
    time.sleep(KILL_S)
    world.control("DELETE", f"/v1/kills/{receipt['id']}", {"reason": "the drill is over"})


def pause_an_agent(world: World) -> None:
    """Its calls wait, and then go on or are refused."""
    _command(world, "pause", "resume")


def cordon_an_agent(world: World) -> None:
    """Runs under way go on, new ones are refused."""
    _command(world, "cordon", "uncordon")


def drain_an_agent(world: World) -> None:
    """What is under way has half a second."""
    _command(world, "drain", "uncordon", deadline="500ms")


def _command(world: World, verb: str, undo: str, **more: str) -> None:
    agent = f"/v1/agents/{world.dice.choice(world.frameworks)}"
    world.control("POST", f"{agent}/{verb}", {"reason": "a drill of the soak", **more})
    time.sleep(KILL_S)
    world.control("POST", f"{agent}/{undo}", {"reason": "the drill is over"})


def shop_dead(world: World) -> None:
    with world.shop_dead():
        time.sleep(world.dice.uniform(0.5, 2.0))


def change_policy(world: World) -> None:
    world.change_policy()
    time.sleep(0.5)


def sidecar_crashes(world: World) -> None:
    world.sidecar.kill9()
    time.sleep(world.dice.choice((0.0, AWAY_S)))
    world.sidecar.start()


def sidecar_restarts(world: World) -> None:
    world.sidecar.restart()


def sidecar_pauses(world: World) -> None:
    """SIGSTOP, as a laptop that sleeps or a container that is frozen."""
    os.kill(world.sidecar.pid, signal.SIGSTOP)
    time.sleep(AWAY_S)
    os.kill(world.sidecar.pid, signal.SIGCONT)


def agents_crash(world: World) -> None:
    """SIGKILL in the middle of whatever they do; a new process follows."""
    one = world.agents[world.dice.choice(world.frameworks)]
    one.process.kill()
    one.process.wait()
    one.log.close()
    world.start_agents(one.framework)


TROUBLES: dict[Trouble, int] = {
    nothing: 6,
    kill_an_agent: 3,
    kill_a_tool: 3,
    kill_a_run: 3,
    kill_everything: 1,
    pause_an_agent: 2,
    cordon_an_agent: 2,
    drain_an_agent: 2,
    shop_dead: 3,
    change_policy: 2,
    sidecar_pauses: 1,
    sidecar_crashes: 1,
    sidecar_restarts: 1,
    agents_crash: 1,
}
"""Each with its weight."""
HARSH = (sidecar_pauses, sidecar_crashes, sidecar_restarts, agents_crash)
"""Not in the last part: what leaks is to be seen in processes that go on."""


def choose(world: World, *, mild: bool) -> Trouble:
    those = [trouble for trouble in TROUBLES if not mild or trouble not in HARSH]
    return world.dice.choices(those, [TROUBLES[trouble] for trouble in those])[0]
