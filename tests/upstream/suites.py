"""Which suites there are: where their tests come from, what they need, and how many calls they are known to make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Suite:
    """One package's tests, of the version that is installed here.

    ``least_tests`` and ``least_calls`` are what was measured for the version ``measured``: a suite that shrinks, or an
    adapter that sees less, must not look like a success. ``needs`` are beside what this environment has;
    ``pins.txt`` has their versions.
    """

    package: str
    adapter: str
    measured: str
    least_tests: int
    least_calls: int
    targets: tuple[str, ...] = ("tests",)
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    folder: str = "."
    """Where the suite expects to lie in its project."""
    direct: int = 0
    """How many bodies the tests run by themselves, by ``tool._run(…)``, which no adapter can see."""
    conftest: str = ""
    """A file of ours in place of one that the sdist does not hold."""


NO_KEY = "not-a-key"
"""Clients want one before they are given a recorded answer."""

LANGGRAPH_PREBUILT = Suite(
    package="langgraph-prebuilt",
    adapter="langgraph",
    measured="1.1.2",
    least_tests=260,
    least_calls=392,
    needs=("langgraph-checkpoint-postgres", "langgraph-checkpoint-sqlite", "psycopg-binary", "pytest-mock", "syrupy"),
    env={"LANGGRAPH_TEST_FAST": "1"},  # only the checkpointers that need no database server
)

LANGCHAIN_AGENTS = Suite(
    package="langchain",
    adapter="langgraph",
    measured="1.4.7",
    least_tests=1152,
    least_calls=251,
    targets=("tests/unit_tests/agents",),
    needs=("blockbuster", "langchain-openai", "langchain-tests", "pytest-mock", "syrupy", "toml", "vcrpy"),
)

AUTOGEN_CORE = Suite(
    package="autogen-core",
    adapter="autogen",
    measured="0.7.5",
    least_tests=58,
    least_calls=39,
    targets=(
        "tests/test_tools.py",
        "tests/test_workbench.py",
        "tests/test_static_workbench_overrides.py",
        "tests/test_tool_agent.py",
        "tests/test_cancellation.py",
        "tests/test_intervention.py",
    ),
)

AUTOGEN_AGENTCHAT = Suite(
    package="autogen-agentchat",
    adapter="autogen",
    measured="0.7.5",
    least_tests=286,
    least_calls=58,
    targets=(
        "tests/test_assistant_agent.py",
        "tests/test_group_chat.py",
        "tests/test_group_chat_endpoint.py",
        "tests/test_group_chat_graph.py",
        "tests/test_group_chat_nested.py",
        "tests/test_group_chat_pause_resume.py",
        "tests/test_task_runner_tool.py",
    ),
    needs=("anthropic", "openai", "tiktoken"),
    env={"OPENAI_API_KEY": NO_KEY},
)

CREWAI = Suite(
    package="crewai",
    adapter="crewai",
    measured="1.15.30",
    least_tests=615,
    least_calls=205,
    direct=14,
    targets=(
        "tests/tools",
        "tests/hooks",
        "tests/agents/test_agent_executor.py",
        "tests/agents/test_native_tool_calling.py",
        "tests/mcp/test_tool_resolver_native.py",
    ),
    needs=("crewai-files", "pytest-recording", "pytest-subprocess", "vcrpy"),
    conftest="crewai_conftest.py",
    env={"CREWAI_DISABLE_TELEMETRY": "true", "OTEL_SDK_DISABLED": "true", "OPENAI_API_KEY": NO_KEY},
    folder="lib/crewai",
)

SUITES: Mapping[str, tuple[Suite, ...]] = {
    "langgraph": (LANGGRAPH_PREBUILT,),
    "langchain": (LANGCHAIN_AGENTS,),
    "crewai": (CREWAI,),
    "autogen": (AUTOGEN_CORE, AUTOGEN_AGENTCHAT),
}
