"""The registry of agents and their life.

registry    who is here, what they declare and do            entry      one agent, its processes
commanded   what people command: a table                     lifecycle  commands, durable and told to everybody
observed    what is observed: a table, and own time          observer   who is silent
expected    what the policy says of an agent                 tools      digests and drift
stored      rows of the store                                telling    what the ledger is told, with its rows
"""

from outrider.agents.entry import Entry
from outrider.agents.lifecycle import Lifecycle
from outrider.agents.registry import OVERFLOW, Agents

__all__ = ["OVERFLOW", "Agents", "Entry", "Lifecycle"]
