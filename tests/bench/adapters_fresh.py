"""How long a fresh process takes to import a framework, and to install the adapter where it is told to:
``python -m tests.bench.adapters_fresh FRAMEWORK alone|governed`` prints the seconds that passed and those of the
processor. Nothing else is imported before, so that nothing is missing from them.
"""

import sys
import time

PACKAGES = {"langgraph": "langgraph.prebuilt", "crewai": "crewai", "autogen": "autogen_agentchat.agents"}
"""What a program imports of a framework at the very least, to make an agent."""


def main() -> None:
    framework, how = sys.argv[1:]
    began, cpu = time.perf_counter(), time.process_time()
    __import__(PACKAGES[framework])
    if how == "governed":
        __import__(f"outrider_adapters.{framework}")
        sys.modules[f"outrider_adapters.{framework}"].install()
    print(time.perf_counter() - began, time.process_time() - cpu, flush=True)


if __name__ == "__main__":
    main()
