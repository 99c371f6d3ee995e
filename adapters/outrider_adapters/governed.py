"""Plain functions under governance: ``@governed``, ``govern(function)``, and ``run(...)`` to name a run.

    @governed
    def search(query: str) -> list[str]: ...            # the tool local.search

    @governed(name="mail.send")
    async def send(to: str, text: str) -> None: ...

A refusal raises ``errors.Refused``; a failure ``errors.Failed``, with the function's own exception as its cause.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from outrider.errors import Code, Failed, Misconfigured, Refused
from outrider_adapters import declared, drive
from outrider_adapters.work import INSIDE, Answer, AsyncBody, Body, Inside, Made, Problem, Raise, Value, Work

F = TypeVar("F", bound=Callable[..., Any])
OWNERS = frozenset({"self", "cls"})
TRIED = frozenset({Code.UPSTREAM_FAILED, Code.OUTCOME_UNKNOWN, Code.DEADLINE_EXCEEDED})
"""Codes that say "it was tried", when attempts were made; every other problem is Outrider's own no."""


@overload
def governed(function: F) -> F: ...
@overload
def governed(function: None = None, *, name: str = "") -> Callable[[F], F]: ...
def governed(function: F | None = None, *, name: str = "") -> F | Callable[[F], F]:
    """Decorate a function. ``name`` is the tool's; without a dot it is put under ``local.``; the default is the
    function's own name. Raises Misconfigured for a generator: its work would happen after the call has ended."""
    if function is None:
        return lambda inner: govern(inner, name=name)
    return govern(function, name=name)


def govern(function: F, *, name: str = "") -> F:
    """A governed twin of ``function``; the function itself stays as it is. Raises like ``governed``."""
    if getattr(function, "__outrider_tool__", None):
        return function
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise Misconfigured(
            f"{function.__qualname__} is a generator: it does its work after the call returned, where nothing can "
            "govern it. Govern the function that consumes it."
        )
    signature = inspect.signature(function)
    own = getattr(function, "__name__", type(function).__name__)
    tool = tool_name(name or own)
    made = _digest(function, own, signature)
    declared.governs(tool, made)
    make = _async_twin if inspect.iscoroutinefunction(function) else _sync_twin
    twin = make(function, Told(tool, own, made), signature)
    twin.__outrider_tool__ = tool
    return twin  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Told:
    """What is told of a governed function with each call."""

    tool: str
    own: str
    digest: str

    def work(self, args: Mapping[str, Any], invoke: Body | None = None, ainvoke: AsyncBody | None = None) -> Work:
        return Work(self.tool, args, invoke=invoke, ainvoke=ainvoke, framework_tool=self.own, digest=self.digest)


def _digest(function: Callable[..., Any], own: str, signature: inspect.Signature) -> str:
    """Parameters with their annotations; of a default only that there is one, since its text may hold an address."""
    told = [
        (name, str(one.kind), str(one.annotation), one.default is not one.empty)
        for name, one in signature.parameters.items()
    ]
    returns = str(signature.return_annotation)
    return declared.digest(own, inspect.getdoc(function) or "", {"parameters": told, "returns": returns})


def tool_name(name: str) -> str:
    """``group.operation``; a bare name is in this process, so its group is ``local``."""
    return name if "." in name else f"local.{name}"


@contextlib.contextmanager
def run(run_id: str, *, session: str = "", agent: str = "") -> Iterator[None]:
    """Calls made inside belong to this run (and session, and agent), unless they are already inside a call."""
    surrounding = INSIDE.get()
    if surrounding is not None and surrounding.call:
        yield
        return
    token = INSIDE.set(Inside("", run_id, session, agent))
    try:
        yield
    finally:
        INSIDE.reset(token)


def _sync_twin(function: Callable[..., Any], told: Told, signature: inspect.Signature) -> Any:
    @functools.wraps(function)
    def twin(*args: Any, **kwargs: Any) -> Any:
        bound = _bind(signature, args, kwargs)

        def invoke(instead: Mapping[str, Any]) -> Any:
            positional, named = _call_with(bound, instead)
            return function(*positional, **named)

        return result_of(drive.call(told.work(_shown(bound), invoke=invoke)))

    return twin


def _async_twin(function: Callable[..., Any], told: Told, signature: inspect.Signature) -> Any:
    @functools.wraps(function)
    async def twin(*args: Any, **kwargs: Any) -> Any:
        bound = _bind(signature, args, kwargs)

        async def ainvoke(instead: Mapping[str, Any]) -> Any:
            positional, named = _call_with(bound, instead)
            return await function(*positional, **named)

        return result_of(await drive.acall(told.work(_shown(bound), ainvoke=ainvoke)))

    return twin


def _bind(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
    """Raises TypeError for arguments that do not fit, like the function itself, before anything is asked."""
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound


def _shown(bound: inspect.BoundArguments) -> dict[str, Any]:
    """The arguments by name, as the rules see them: without the object a method is bound to, ``**kwargs`` spread."""
    shown: dict[str, Any] = {}
    for at, (name, value) in enumerate(bound.arguments.items()):
        if at == 0 and name in OWNERS:
            continue
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            shown.update(value)
        else:
            shown[name] = value
    return shown


def _call_with(bound: inspect.BoundArguments, instead: Mapping[str, Any]) -> tuple[tuple[Any, ...], Any]:
    """The arguments to call with: the caller's own objects, but for those that the gateway changed."""
    if not instead:
        return bound.args, bound.kwargs
    changed = inspect.BoundArguments(bound.signature, bound.arguments.copy())
    spread = {
        name: dict(value)
        for name, value in bound.arguments.items()
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
    }
    changed.arguments.update(spread)
    for name, value in instead.items():
        target = changed.arguments if name in bound.signature.parameters else next(iter(spread.values()), None)
        if target is not None:
            target[name] = value
    return changed.args, changed.kwargs


def result_of(answer: Answer) -> Any:
    """The value, or Refused, Failed, or the exception that is not ours to touch."""
    match answer:
        case Value(value) | Made(value):
            return value
        case Raise(error):
            raise error
        case Problem():
            raise error_of(answer) from answer.error
    raise AssertionError("an unsent call is sent again")


def error_of(answer: Problem) -> Refused | Failed:
    """Which of the two it is."""
    told = answer.problem
    detail = str(told.get("detail") or told.get("title") or "the call was refused")
    tried = told.get("code") in TRIED and told.get("outcome") != "not_executed" and told.get("attempts") != 0
    return Failed(detail, told) if tried else Refused(detail, told)
