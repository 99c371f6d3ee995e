"""Loading: the files of a folder are one policy, read strictly, with every fault at once.

    files → strictyaml → draft (validated sections) → compile (upstreams, plans, rules) → lint → Policy

``load`` gives a policy or raises with every fault; ``check`` gives what there is and never raises.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from outrider.calls import Effect
from outrider.errors import Fault, Misconfigured
from outrider.policy import compile as compiling
from outrider.policy import compile_identity
from outrider.policy.conditions import Condition, ConditionError, compile_condition
from outrider.policy.draft import Draft, Item, draft
from outrider.policy.identity import IdentitySettings
from outrider.policy.layers import Layers
from outrider.policy.lint_agents import check_agents
from outrider.policy.lint_links import check_links
from outrider.policy.lint_plans import check_plans
from outrider.policy.lint_runs import check_runs
from outrider.policy.lint_upstreams import check_upstreams
from outrider.policy.patterns import raw_tool
from outrider.policy.plans import AgentSettings, KillSettings, LedgerSettings, Limits, Plan, Upstream
from outrider.policy.references import Resolver
from outrider.policy.rules import Rule, Rules
from outrider.policy.run_guards import RunPolicy
from outrider.policy.schema import Metadata
from outrider.policy.schema import Rule as RuleSection
from outrider.policy.strictyaml import read
from outrider.policy.summary import summarise

MAX_FILES = 256
SECRETS_MISSING = frozenset({"E49"})
"""To be forgiven where somebody only asks what a policy says, without the sidecar's secrets, files and environment."""
MAX_FAULTS = 1000
"""More are counted and not shown."""


@dataclass(frozen=True)
class Policy:
    """A whole policy, immutable. ``digest`` is the SHA-256 of all file names and texts; ``texts`` are those texts.

    ``upstreams`` always holds ``local``. ``warnings`` are faults that do not keep it from being used.
    """

    name: str
    digest: str
    folder: Path
    texts: Mapping[str, str]
    upstreams: Mapping[str, Upstream]
    limits: Limits
    ledger: LedgerSettings
    kills: KillSettings
    runs: RunPolicy
    identity: IdentitySettings
    agents: AgentSettings
    rules: Rules
    mode: Literal["enforce", "observe"] = "enforce"
    warnings: tuple[Fault, ...] = ()
    patterns: tuple[str, ...] = ()  # what the entries of `tools` match, as they are written
    _book: compiling.PlanBook = field(repr=False, compare=False, kw_only=True)

    @property
    def observes(self) -> bool:
        """Whether what this policy would refuse is only recorded."""
        return self.mode == "observe"

    def plan(self, tool: str, assumed: Effect | None = None) -> Plan | None:
        """How ``tool`` is called; None where its upstream is not in this policy or it cannot be a tool's name.
        ``assumed`` is its effect where no entry of ``tools`` says one."""
        return self._book.plan(tool, assumed)

    def summary(self) -> dict[str, object]:
        """What ``GET /v1/policy`` shows: JSON, no secrets."""
        return summarise(self)


def load(folder: Path, *, env: Mapping[str, str] = os.environ) -> Policy:
    """The policy of a folder. Raises Misconfigured with every fault. ``env`` is where ``{env:NAME}`` looks."""
    policy, faults = check(folder, env=env)
    errors = tuple(fault for fault in faults if fault.severity == "error")
    if policy is None or errors:
        raise Misconfigured(errors)
    return policy


def check(
    folder: Path, *, env: Mapping[str, str] = os.environ, forgive: Set[str] = frozenset()
) -> tuple[Policy | None, tuple[Fault, ...]]:
    """The policy, None where it has errors, and every fault, warnings included, by file and line. Errors whose codes
    are in ``forgive`` are told and do not keep it from being read: who asks what a policy says need not have its
    secrets."""
    raw, faults = _files(folder)
    return (None, tuple(faults)) if faults else check_texts(raw, folder, env=env, forgive=forgive)


def check_texts(
    raw: Mapping[str, bytes], folder: Path, *, env: Mapping[str, str] = os.environ, forgive: Set[str] = frozenset()
) -> tuple[Policy | None, tuple[Fault, ...]]:
    """The same of texts by file name; ``folder`` is where their relative paths start."""
    made = draft([read(name, content) for name, content in raw.items()])
    policy = _built(made, folder, raw, env)
    found = _sorted(made.faults)
    if any(fault.severity == "error" and fault.code not in forgive for fault in found):
        return None, found
    return replace(policy, warnings=found), found


def _files(folder: Path) -> tuple[dict[str, bytes], list[Fault]]:
    """The policy's files by name, sorted. ``*.test.yaml`` and hidden files are not part of it."""
    fix = "write a policy there with 'outrider init', or name another folder with --policy."
    if not folder.is_dir():
        return {}, [Fault(str(folder), 0, "", "there is no such folder.", fix, "E43")]
    paths = [path for path in sorted(folder.iterdir()) if _is_policy(path)]
    if not paths:
        return {}, [Fault(str(folder), 0, "", "the folder holds no policy (*.yaml).", fix, "E43")]
    if len(paths) > MAX_FILES:
        message = f"the folder holds {len(paths)} files; at most {MAX_FILES}."
        return {}, [Fault(str(folder), 0, "", message, "join some of them.", "E42")]
    found: dict[str, bytes] = {}
    faults = []
    for path in paths:
        try:
            found[path.name] = path.read_bytes()
        except OSError as error:
            fix = "make it readable for the sidecar's user."
            faults.append(Fault(path.name, 0, "", f"cannot be read: {error.strerror}.", fix, "E43"))
    return found, faults


def _is_policy(path: Path) -> bool:
    name = path.name
    stem, dot, ending = name.rpartition(".")
    return (
        path.is_file()
        and bool(dot)
        and ending in {"yaml", "yml"}
        and not name.startswith(".")
        and not stem.endswith(".test")
    )


def _sorted(faults: list[Fault]) -> tuple[Fault, ...]:
    unique = {(fault.file, fault.line, fault.path, fault.code, fault.message): fault for fault in faults}
    found = sorted(unique.values(), key=lambda fault: (fault.file, fault.line, fault.path, fault.code))
    if len(found) <= MAX_FAULTS:
        return tuple(found)
    errors = [fault for fault in found if fault.severity == "error"][:MAX_FAULTS]
    rest = Fault("", 0, "", f"there are {len(found)} faults; only {MAX_FAULTS} are shown.", "mend these first.", "E42")
    return (*(errors or found[:MAX_FAULTS]), replace(rest, severity="error" if errors else "warning"))


def _digest(raw: Mapping[str, bytes]) -> str:
    """Over names and contents, each with its length, so that no two folders share one by moving a border."""
    digest = hashlib.sha256()
    for name, content in raw.items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _built(made: Draft, folder: Path, raw: Mapping[str, bytes], env: Mapping[str, str]) -> Policy:
    """Compile what is valid, and check it: faults go to the draft."""
    upstreams = compiling.upstreams(made, Resolver(made, env, folder))
    layers = Layers(made)
    rules = list(_rules(made))
    made.faults.extend(check_plans(layers, upstreams))
    made.faults.extend(check_links(made, layers, upstreams))
    made.faults.extend(check_upstreams(made, layers, upstreams))
    made.faults.extend(compile_identity.check_identity(made, folder))
    made.faults.extend(check_runs(made))
    made.faults.extend(check_agents(made))
    metadata = made.section("metadata", Metadata)
    return Policy(
        name=(metadata.name if metadata else None) or folder.resolve().name or "policy",
        digest=_digest(raw),
        folder=folder,
        texts={name: content.decode("utf-8", "replace") for name, content in raw.items()},
        upstreams=upstreams,
        limits=compiling.limits(made),
        ledger=compiling.ledger(made),
        kills=compiling.kills(made),
        runs=compiling.runs(made),
        identity=compile_identity.identity(made, folder),
        agents=compiling.agents(made),
        rules=Rules(rules, exact=frozenset(raw_tool(name) for name, known in upstreams.items() if known.http)),
        mode=made.mode,
        patterns=tuple(layer.pattern for layer in layers.entries),
        _book=compiling.PlanBook(layers, upstreams),
    )


def _rules(made: Draft) -> Iterator[Rule]:
    for item in made.rules:
        said = item.model.said()
        condition, usable = _condition(made, item, said.get("when"))
        if usable and item.whole:
            yield Rule(
                name=item.model.name,
                then=item.model.then,
                tools=tuple(item.model.tools),
                agents=tuple(item.model.agents),
                condition=condition,
                reason=said.get("reason", ""),
                approvers=tuple(said.get("approvers", ())),
                shadow=item.model.mode == "observe",
                source=item.at(),
            )


def _condition(made: Draft, item: Item[RuleSection], text: str | None) -> tuple[Condition | None, bool]:
    if text is None:
        return None, True
    try:
        return compile_condition(text), True
    except ConditionError as error:
        for problem in error.problems:
            made.faults.append(item.fault(("when",), *problem))
        return None, False
