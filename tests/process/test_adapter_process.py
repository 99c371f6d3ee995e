"""Adapters in real processes: fork and preforking, exit with work under way, and ``outrider run``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider import wire
from outrider.errors import Misconfigured
from outrider_adapters import run as runner
from tests.support.adapters import eventually
from tests.support.gateway_server import TOKEN, GatewayServer, Session, with_timeout


@pytest.fixture
def gateway() -> Iterator[GatewayServer]:
    with GatewayServer() as server:
        yield server


def environment_of(gateway: GatewayServer, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OUTRIDER_")}
    return {**kept, "OUTRIDER_URL": gateway.url, "OUTRIDER_TOKEN": TOKEN, "OUTRIDER_CONNECT_WAIT": "1", **more}


def start(gateway: GatewayServer, code: str, *before: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*before, sys.executable, "-c", textwrap.dedent(code)],
        env=environment_of(gateway, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def gone(session: Session) -> bool:
    """Whether the gateway's end saw the connection break."""
    socket = session.socket
    return socket is None or socket.closed or socket._req is None or socket._req.transport is None


def finish(process: subprocess.Popen[str], timeout_s: float = 30) -> str:
    """Its output; fails when its status is not 0."""
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, err
    return out


def test_a_forked_child_is_a_process_of_its_own(gateway: GatewayServer) -> None:
    """Another session key, another instance; the parent's session goes on, and both calls are governed."""
    code = """
        import os
        from outrider_adapters.governed import governed

        @governed
        def who(name):
            return name

        assert who("parent") == "parent"
        child = os.fork()
        if child == 0:
            assert who("child") == "child"
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert who("parent again") == "parent again"
    """
    finish(start(gateway, code))
    assert [call.open.args["name"] for call in gateway.calls] == ["parent", "child", "parent again"]
    parent, child = gateway.hellos
    assert parent.session_key != child.session_key and parent.instance != child.instance
    assert parent.pid != child.pid


def test_a_child_forked_while_a_run_begins_in_another_thread_does_not_hang(gateway: GatewayServer) -> None:
    """The lock of the table of runs may be held in that moment, by a thread that the child does not have."""
    code = """
        import os, signal, threading, uuid
        from outrider_adapters import langgraph_runs as runs

        runs.watch()
        held, done = threading.Event(), threading.Event()

        def begin():
            with runs.ROOTS._lock:
                held.set()
                done.wait()

        threading.Thread(target=begin, daemon=True).start()
        held.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(5)
            runs.ROOTS.on_chain_start({}, {}, run_id=uuid.uuid4())
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        done.set()
    """
    finish(start(gateway, code))


def test_preforked_workers_each_connect_and_the_master_does_not_linger(gateway: GatewayServer) -> None:
    """As gunicorn does it: the master imports the application, which installs; workers are forked and serve. When the
    master dies, its connection ends although its children hold copies of everything."""
    code = """
        import os, signal, sys, time
        from outrider_adapters import langgraph, process
        from langchain_core.tools import tool

        @tool
        def work(number: int) -> int:
            "Works."
            return number * 2

        langgraph.install(agent="web")
        while not process.current().up:
            time.sleep(0.01)
        workers = []
        for number in range(3):
            pid = os.fork()
            if pid == 0:
                assert work.invoke({"number": number}) == number * 2
                signal.pause()
            workers.append(pid)
        print(*workers, flush=True)
        signal.pause()
    """
    master = start(gateway, code)
    assert master.stdout is not None
    workers = [int(pid) for pid in master.stdout.readline().split()]
    try:
        eventually(lambda: len(gateway.calls) == 3)
        assert len({hello.session_key for hello in gateway.hellos}) == 4
        assert {hello.agent for hello in gateway.hellos} == {"web"}
        masters = next(one for one in gateway.sessions.values() if one.hello.pid == master.pid)
        master.kill()
        master.wait(10)
        eventually(lambda: gone(masters))
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        master.communicate(timeout=10)


def test_a_hanging_tool_does_not_keep_the_process_alive(gateway: GatewayServer) -> None:
    """It runs on a daemon thread; the process says goodbye and ends, in bounded time."""
    gateway.script = with_timeout(60_000)
    code = """
        import threading, time
        from outrider_adapters.governed import governed

        begun = threading.Event()

        @governed
        def hang():
            begun.set()
            time.sleep(600)

        threading.Thread(target=hang, daemon=True).start()
        assert begun.wait(10)
    """
    began = time.monotonic()
    finish(start(gateway, code))
    assert time.monotonic() - began < 20
    eventually(lambda: any(isinstance(frame, wire.Bye) for frame in gateway.said))


def test_at_exit_what_ended_is_told_before_the_goodbye(gateway: GatewayServer) -> None:
    """A call that is the program's last act is on record."""
    code = """
        from outrider_adapters.governed import governed

        @governed
        def last():
            return "words"

        last()
    """
    finish(start(gateway, code))
    eventually(lambda: any(isinstance(frame, wire.Bye) for frame in gateway.said))
    kinds = [type(frame).__name__ for frame in gateway.said]
    assert kinds == ["Hello", "Open", "Finished", "Bye"]


def test_without_a_sidecar_a_program_ends_as_fast_as_it_would(gateway: GatewayServer) -> None:
    """The goodbye does not wait for one that never was."""
    gateway.stop()
    code = """
        import time
        from outrider_adapters import environment, process
        process.configure(environment.read(), "a test", "python", "3")
        began = time.monotonic()
        process.close()
        print(time.monotonic() - began)
    """
    assert float(finish(start(gateway, code))) < 2.5
    gateway.start()


def test_ctrl_c_while_a_call_waits_is_a_keyboard_interrupt_and_the_gateway_is_told(gateway: GatewayServer) -> None:
    """Waiting for an answer can be interrupted, as any wait."""
    gateway.script = with_timeout(60_000)
    code = """
        import time
        from outrider_adapters.governed import governed

        @governed
        def work():
            print("working", flush=True)
            time.sleep(600)

        try:
            work()
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """
    process = start(gateway, code)
    assert process.stdout is not None and process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGINT)
    assert finish(process) == "interrupted\n"
    eventually(lambda: any(isinstance(frame, wire.Cancel) for frame in gateway.said))


def test_killed_in_the_middle_of_a_call_the_process_is_just_gone(gateway: GatewayServer) -> None:
    """SIGKILL: no goodbye; the gateway's end sees the connection break."""
    gateway.script = with_timeout(60_000)
    code = """
        import time
        from outrider_adapters.governed import governed

        @governed
        def work():
            print("working", flush=True)
            time.sleep(600)

        work()
    """
    process = start(gateway, code)
    assert process.stdout is not None and process.stdout.readline() == "working\n"
    session = next(iter(gateway.sessions.values()))
    process.kill()
    process.communicate(timeout=10)
    eventually(lambda: gone(session))
    assert not any(isinstance(frame, wire.Bye) for frame in gateway.said)


# ── outrider run ─────────────────────────────────────────────────────────────────────────────────────────────────

RUN = "import sys; from outrider_adapters.run import run; run(sys.argv[1:], 'researcher')"
AGENT = """
    import asyncio
    from langchain_core.tools import tool

    @tool
    def search(query: str) -> str:
        "Searches."
        return "found " + query

    print(search.invoke({"query": "a"}), asyncio.run(search.ainvoke({"query": "b"})))
"""


def test_outrider_run_governs_a_program_without_a_line_of_code(gateway: GatewayServer) -> None:
    """The framework's import sets it in motion; sync and async tools are governed under the operator's name."""
    out = finish(start(gateway, AGENT, sys.executable, "-c", RUN))
    assert out == "found a found b\n"
    assert [call.open.tool for call in gateway.calls] == ["local.search", "local.search"]
    assert {call.open.agent for call in gateway.calls} == {"researcher"}


def test_outrider_run_keeps_its_name_over_the_programs_own_install(gateway: GatewayServer) -> None:
    """The operator starts it; a program that installs by itself is governed once, not twice."""
    code = f"""
    from outrider_adapters import langgraph
    langgraph.install(agent="itself")
    {AGENT.strip()}
    """
    finish(start(gateway, code, sys.executable, "-c", RUN))
    assert len(gateway.calls) == 2
    assert {call.open.agent for call in gateway.calls} == {"researcher"}


def test_outrider_run_costs_a_program_without_a_framework_nothing(gateway: GatewayServer) -> None:
    """No adapter is imported, nobody connects; another sitecustomize still has its turn."""
    code = "import sys; print([name for name in sys.modules if name.startswith('outrider')])"
    assert finish(start(gateway, code, sys.executable, "-c", RUN)) == "[]\n"
    assert gateway.hellos == []


def test_outrider_run_lets_the_sitecustomize_behind_it_have_its_turn(gateway: GatewayServer, tmp_path: Path) -> None:
    """A distribution's or a coverage tool's own."""
    (tmp_path / "sitecustomize.py").write_text("print('the other one')\n")
    env = environment_of(gateway, PYTHONPATH=os.pathsep.join([str(runner.BOOTSTRAP), str(tmp_path)]))
    out = subprocess.run(
        [sys.executable, "-c", "print('program')"], env=env, capture_output=True, text=True, timeout=30
    )
    assert out.stdout == "the other one\nprogram\n"


def test_outrider_run_in_a_python_without_outrider_does_not_import_the_framework(tmp_path: Path) -> None:
    """Fail closed, at the framework's import, with what to do."""
    package = tmp_path / "langchain_core" / "tools"
    package.mkdir(parents=True)
    (tmp_path / "langchain_core" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "base.py").write_text("class BaseTool: ...\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(runner.BOOTSTRAP), str(tmp_path)])}
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['outrider_adapters'] = None; import langchain_core.tools.base"],
        env=env, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert bare.returncode == 1
    assert "pip install outrider" in bare.stderr and "is not imported" in bare.stderr


def test_outrider_run_tells_missing_settings_before_it_starts_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """No token, no name, no program, a Python that would not listen: each with a sentence."""
    env = {"PATH": os.environ["PATH"], "OUTRIDER_TOKEN": "t"}
    with pytest.raises(Misconfigured, match="OUTRIDER_TOKEN"):
        runner.run([sys.executable], "name", {"PATH": os.environ["PATH"]})
    with pytest.raises(Misconfigured, match="has no name"):
        runner.run([sys.executable], "", env)
    with pytest.raises(Misconfigured, match="no program"):
        runner.run([], "name", env)
    with pytest.raises(Misconfigured, match="not a program"):
        runner.run(["no-such-program-here"], "name", env)
    for flag in ("-I", "-E", "-uS"):
        with pytest.raises(Misconfigured, match="Leave that flag out"):
            runner.run([sys.executable, flag, "agent.py"], "name", env)


def test_governing_plain_functions_needs_the_base_install_only(gateway: GatewayServer) -> None:
    """An agent's process gets aiohttp, msgspec and opentelemetry-api, and none of a framework's or the sidecar's."""
    code = """
        import sys
        from outrider_adapters.governed import governed

        @governed
        def add(a, b):
            return a + b

        assert add(1, 2) == 3
        heavy = {"langchain_core", "langgraph", "pydantic", "yaml", "typer", "rich", "sqlite_utils", "uvloop", "cel"}
        print(sorted(heavy & set(sys.modules)), sorted(name for name in sys.modules if name.startswith("outrider.")))
    """
    assert finish(start(gateway, code)) == "[] ['outrider.errors', 'outrider.wire']\n"
