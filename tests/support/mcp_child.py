"""A scripted MCP server over stdio, standard library only: ``python mcp_child.py JOURNAL [WORD …]``.

Each tools/call is written down in the journal as ``NAME N`` when it begins. Words say how it behaves:

    modern       it speaks 2026-07-28 (without it: the handshake versions)
    mute         it never answers server/discover
    deaf         it never answers anything
    crash        it exits as it starts
    stubborn     it ignores SIGTERM and the end of its stdin
    family       it starts a process of its own group and one that daemonises; their pids are in JOURNAL.family
    banner       it prints ten lines of garbage first

Tools: echo {n}, slow {s}, env {}, die {}, garbage {}, flood {}, long {bytes}, stop {} (it reads no more),
freeze {} (it answers nothing any more), ask {} (asks its client to elicit), progress {}, stderr {text}, late {}.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

JOURNAL, WORDS = Path(sys.argv[1]), set(sys.argv[2:])
lock = threading.Lock()
asked: dict[str, threading.Event] = {}
answers: dict[str, Any] = {}
cancelled: set[Any] = set()
frozen = "deaf" in WORDS


def say(message: dict[str, Any]) -> None:
    if not frozen:
        write(json.dumps({"jsonrpc": "2.0", **message}))


def write(text: str) -> None:
    with lock:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def note(line: str) -> None:
    with JOURNAL.open("a", encoding="utf-8") as journal:
        journal.write(line + "\n")


def text(value: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": "a text"}], "structuredContent": {"value": value}}


def call(id_: Any, params: dict[str, Any]) -> None:
    global frozen
    name, args = params["name"], params.get("arguments") or {}
    note(f"{name} {args.get('n', '')}".strip())
    value: Any = args.get("n")
    if name == "slow":
        time.sleep(float(args["s"]))
    elif name == "env":
        value = dict(os.environ) | {"cwd": str(Path.cwd())}
    elif name == "die":
        os._exit(3)
    elif name == "garbage":
        for n in range(1000):
            write(f"this is no message {n}")
    elif name == "flood":
        while True:
            say({"method": "notifications/message", "params": {"data": "x"}})
    elif name == "long":
        value = "x" * int(args["bytes"])
    elif name == "freeze":
        frozen = True
    elif name == "ask":
        asked["q-1"] = threading.Event()
        say({"id": "q-1", "method": "elicitation/create", "params": {"message": "which?"}})
        asked["q-1"].wait(10)
        value = answers.get("q-1")
    elif name == "progress":
        token = (params.get("_meta") or {}).get("progressToken")
        say({"method": "notifications/progress", "params": {"progressToken": token, "progress": 1}})
    elif name == "stderr":
        sys.stderr.write(args["text"] + "\n")
        sys.stderr.flush()
    elif name == "cancelled":
        time.sleep(0.1)
        value = sorted(str(one) for one in cancelled)
    say({"id": id_, "result": text(value)})


def handle(message: dict[str, Any]) -> None:
    method, id_ = message.get("method"), message.get("id")
    if method is None:
        answers[str(id_)] = message.get("result") or message.get("error")
        if str(id_) in asked:
            asked[str(id_)].set()
    elif method == "initialize":
        info = {"name": "scripted", "version": "1"}
        say({"id": id_, "result": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}})
    elif method == "server/discover" and "mute" in WORDS:
        pass
    elif method == "server/discover" and "modern" in WORDS:
        say({"id": id_, "result": {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}})
    elif method == "tools/list":
        tools = [{"name": name, "inputSchema": {"type": "object"}} for name in ("echo", "slow", "get_note")]
        say({"id": id_, "result": {"tools": tools}})
    elif method == "tools/call" and message["params"]["name"] == "stop":
        note("stop")
        time.sleep(3600)
    elif method == "tools/call":
        threading.Thread(target=call, args=(id_, message["params"]), daemon=True).start()
    elif method == "notifications/cancelled":
        cancelled.add(message["params"]["requestId"])
    elif method == "ping":
        say({"id": id_, "result": {}})
    elif id_ is not None:
        say({"id": id_, "error": {"code": -32601, "message": "no such method"}})


def begin() -> None:
    note(f"pid {os.getpid()}")
    if "stubborn" in WORDS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "family" in WORDS:
        sleeper = [sys.executable, "-c", "import time; time.sleep(3600)"]
        members = [subprocess.Popen(sleeper), subprocess.Popen(sleeper, start_new_session=True)]
        JOURNAL.with_suffix(".family").write_text(" ".join(str(one.pid) for one in members))
    if "banner" in WORDS:
        for n in range(10):
            write(f"welcome {n}")
    if "crash" in WORDS:
        sys.stderr.write("no module named nothing\n")
        sys.exit(1)


if __name__ == "__main__":
    begin()
    while line := sys.stdin.readline():
        handle(json.loads(line))
    while "stubborn" in WORDS:
        time.sleep(3600)
