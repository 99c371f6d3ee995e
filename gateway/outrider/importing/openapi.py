"""The operations of an OpenAPI 3 document as tools of one upstream: how arguments become requests, and what repeating
one would do.

Only what a policy can say is taken over; what it cannot (a body that is no JSON, a credential in the query) is told, so
that nobody believes it to be governed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from outrider.errors import Misconfigured
from outrider.importing.document import Document
from outrider.importing.tools import Imported, Tool, env_name, safe_operation, unlike
from outrider.policy.fields import FRAMING_HEADERS
from outrider.suggest.guesses import Guess, effect

METHODS = ("get", "head", "post", "put", "patch", "delete")
OTHERS = ("options", "trace", "connect", "query")
MAX_TOOLS = 1000
MAX_PARAMETERS = 100
MAX_SCHEMAS = 200
"""Looked through for the names of one body's properties."""
MAX_SIZE = 2 * 1024 * 1024
"""Characters of all templates; a policy's file is at most twice as large."""
MAX_TEXT = 1800
"""Of a path, below what a policy takes."""
KEY_HEADER = "idempotency-key"
_ARGUMENT = re.compile(r"[^A-Za-z0-9_-]+")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_UNFIT = re.compile(r"[?#\s\\{}]|[^\x21-\x7e]")
_IN_BRACES = re.compile(r"\{([^{}]*)\}")
_OF_HTTP = frozenset({"accept", "content-type", "authorization"})
"""Headers that OpenAPI says are not declared as parameters."""


def imported(root: dict[str, Any], name: str, url: str) -> Imported:
    """``name``: of the upstream; empty takes the document's title. ``url``: where it is; empty takes the first server.
    Raises Misconfigured."""
    version = str(root.get("openapi", ""))
    if not version.startswith("3."):
        told = f"it says openapi: {version[:20]}" if version else "it has no 'openapi'"
        raise Misconfigured(f"This is no OpenAPI 3 document: {told}. Convert older ones first.")
    document = Document(root)
    title = str(document.at(root.get("info")).get("title", ""))
    found = Imported(name or unlike((), title), title)
    found.url = url or _server(document, found)
    found.headers = dict(_credentials(document, found))
    _tools(document, found)
    if document.outside:
        found.notes.append(f"references that lead to nothing in this file were passed over: {_some(document.outside)}")
    return found


def _some(texts: set[str]) -> str:
    shown = sorted(texts)
    return ", ".join(text[:80] for text in shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


# ── where it is, and as whom ─────────────────────────────────────────────────────────────────────────────────────


def _server(document: Document, found: Imported) -> str:
    servers = document.root.get("servers")
    listed = [document.at(server) for server in servers] if isinstance(servers, list) else []
    urls = [_filled(server) for server in listed]
    absolute = [text for text in urls if re.match(r"https?://[^/\s{}]+[^\s{}]*$", text)]
    if not absolute:
        said = f" (it says '{urls[0][:100]}')" if urls and urls[0] else ""
        raise Misconfigured(f"The document does not say where the service is{said}. Say it: --url https://…")
    if len(absolute) > 1:
        found.notes.append(f"other servers that the document names: {_some(set(absolute[1:]))}")
    return absolute[0].rstrip("/")


def _filled(server: Mapping[str, Any]) -> str:
    """Its address, with the defaults of its variables."""
    variables = server.get("variables")
    known = variables if isinstance(variables, dict) else {}

    def value(match: re.Match[str]) -> str:
        said = known.get(match[1])
        return str(said.get("default", "")) if isinstance(said, dict) else match[0]

    return _IN_BRACES.sub(value, str(server.get("url", "")))


def _credentials(document: Document, found: Imported) -> Iterator[tuple[str, str]]:
    """The headers of the first way to sign in that a header can say."""
    components = document.at(document.root.get("components"))
    schemes = document.at(components.get("securitySchemes"))
    for name in list(_wanted(document, schemes))[:MAX_PARAMETERS]:
        scheme = document.at(schemes.get(name))
        header = _header_of(scheme, found.name)
        if header is not None:
            found.credential = f"the security scheme '{name[:80]}' ({_kind(scheme)})"
            yield header
            return
        found.notes.append(f"the security scheme '{name[:80]}' ({_kind(scheme)}) cannot be said by a header: left out")


def _wanted(document: Document, schemes: Mapping[str, Any]) -> Iterator[str]:
    """Names of schemes: those that hold for the whole service first."""
    security = document.root.get("security")
    first = [name for one in security or () if isinstance(one, dict) for name in one] if security else []
    yield from dict.fromkeys([*(name for name in first if name in schemes), *schemes])


def _kind(scheme: Mapping[str, Any]) -> str:
    words = (scheme.get("type"), scheme.get("scheme"), scheme.get("in"))
    return " ".join(str(word)[:40] for word in words if word)


def _header_of(scheme: Mapping[str, Any], upstream: str) -> tuple[str, str] | None:
    kind, how = str(scheme.get("type")), str(scheme.get("scheme", "")).lower()
    if kind in {"oauth2", "openIdConnect"} or (kind == "http" and how == "bearer"):
        return "Authorization", f"Bearer {{env:{env_name(upstream, 'TOKEN')}}}"
    if kind == "http" and how == "basic":
        return "Authorization", f"Basic {{env:{env_name(upstream, 'BASIC')}}}"
    name = str(scheme.get("name", ""))
    if kind == "apiKey" and scheme.get("in") == "header" and _is_header(name):
        return name, f"{{env:{env_name(upstream, 'KEY')}}}"
    return None


def _is_header(name: str) -> bool:
    return _HEADER.fullmatch(name) is not None and name.lower() not in FRAMING_HEADERS


# ── operations ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Operation:
    """One method of one path. ``names``: arguments by (place, name); ``problem``: why it cannot be taken over."""

    method: str
    path: str
    said: dict[str, Any]
    parameters: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    names: dict[tuple[str, str], str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def _tools(document: Document, found: Imported) -> None:
    size = 0
    for operation in _operations(document, found):
        label = f"{operation.method} {operation.path[:200]}"
        if len(found.tools) >= MAX_TOOLS or size > MAX_SIZE:
            found.left_out["operations, because there are too many"] += 1
            continue
        problem = _unfit(operation.path) or _unfit_body(document, operation)
        if problem:
            found.notes.append(f"left out: {label}: {problem}")
            continue
        found.tools.append(_tool(document, operation, found))
        size += len(str(found.tools[-1]))


def _operations(document: Document, found: Imported) -> Iterator[_Operation]:
    paths = document.root.get("paths")
    for path, entry in paths.items() if isinstance(paths, dict) else ():
        item = document.at(entry)
        if not str(path).startswith("/"):
            continue  # x-… of a vendor
        for method in METHODS:
            if isinstance(item.get(method), dict):
                operation = _Operation(method.upper(), str(path), item[method])
                _parameters(document, operation, item)
                yield operation
        for method in OTHERS:
            if method in item:
                found.left_out["operations with a method that a policy does not know"] += 1


def _parameters(document: Document, operation: _Operation, item: Mapping[str, Any]) -> None:
    """Those of the path, then those of the operation over them."""
    for listed in (item.get("parameters"), operation.said.get("parameters")):
        for entry in listed[:MAX_PARAMETERS] if isinstance(listed, list) else ():
            parameter = document.at(entry)
            place, name = str(parameter.get("in")), parameter.get("name")
            if isinstance(name, str) and name:
                operation.parameters[place, name] = parameter


def _unfit(path: str) -> str:
    """Why this path cannot be a template."""
    if len(path) > MAX_TEXT:
        return "its path is too long"
    literal = _IN_BRACES.sub("x", path)
    if _UNFIT.search(literal):
        return "its path holds a character that a path does not hold"
    if path.startswith("//") or {".", ".."} & set(literal.split("/")):
        return "its path holds a dot segment or begins with two slashes"
    if any(not _ARGUMENT.sub("", name) for name in _IN_BRACES.findall(path)):
        return "its path names a parameter that no argument can be named after"
    return ""


def _unfit_body(document: Document, operation: _Operation) -> str:
    body = document.at(operation.said.get("requestBody"))
    content = body.get("content")
    if not isinstance(content, dict) or not content or _json_of(content) is not None:
        return ""
    return f"its body is {_some({str(kind) for kind in content})}, and a policy sends JSON" if body else ""


def _json_of(content: Mapping[str, Any]) -> Any:
    """The media type that is JSON."""
    for kind, media in content.items():
        bare = str(kind).partition(";")[0].strip().lower()
        if bare in {"application/json", "*/*", "application/*"} or bare.endswith("+json"):
            return media if isinstance(media, dict) else {}
    return None


def _tool(document: Document, operation: _Operation, found: Imported) -> Tool:
    said = operation.said
    name = unlike(
        [tool.name for tool in found.tools],
        str(said.get("operationId") or "") or f"{operation.method.lower()}_{operation.path}",
        make=safe_operation,
    )
    template = _template(document, operation)
    guess = _effect(name, operation.method)
    keyed = [key for place, key in operation.parameters if place == "header" and key.lower() == KEY_HEADER]
    if keyed and guess.value == "write":
        guess = Guess("keyed", f"it takes the header {keyed[0]}")
    summary = " ".join(str(said.get("summary") or said.get("description") or "").split())[:200]
    if said.get("deprecated") is True:
        operation.remarks.append("deprecated")
    return Tool(name, guess, template, summary, operation.remarks, keyed[0] if guess.value == "keyed" else "")


def _effect(name: str, method: str) -> Guess:
    """By the method; but a GET that is called so does not read."""
    by_method, by_name = effect(name, method), effect(name, "")
    told = by_name.value == "write" and "in its name" in by_name.why
    if method in {"GET", "HEAD"} and told:
        return Guess("write", f"{by_name.why}, although {by_method.why}")
    return by_method


def _template(document: Document, operation: _Operation) -> dict[str, Any]:
    body, properties = _body(document, operation)
    in_path = list(dict.fromkeys(_IN_BRACES.findall(operation.path)))
    for name in in_path:
        _named(operation, "path", name, properties)
    template: dict[str, Any] = {"method": operation.method}
    template["path"] = _IN_BRACES.sub(lambda found: f"{{args.{operation.names['path', found[1]]}}}", operation.path)
    query = {name: f"{{args.{_named(operation, 'query', name, properties)}}}" for name in _of(operation, "query")}
    if query:
        template["query"] = query
    headers = {name: f"{{args.{_named(operation, 'header', name, properties)}}}" for name in _headers(operation)}
    if headers:
        template["headers"] = headers
    if body is not None:
        template["body"] = body
    if cookies := list(_of(operation, "cookie")):
        operation.remarks.append(f"sent without its cookies: {_some(set(cookies))}")
    return template


def _of(operation: _Operation, place: str) -> Iterator[str]:
    for (where, name), parameter in operation.parameters.items():
        if where == place and len(name) <= 200 and name.isprintable():
            if place == "query" and "array" in _types(parameter):
                operation.remarks.append(f"the list '{name[:60]}' is sent as JSON")
            yield name


def _types(parameter: Mapping[str, Any]) -> set[str]:
    schema = parameter.get("schema")
    kind = schema.get("type") if isinstance(schema, dict) else None
    return {str(one) for one in kind} if isinstance(kind, list) else {str(kind)}


def _headers(operation: _Operation) -> Iterator[str]:
    """Those that must be there: one that is missing would be sent empty. The key of a keyed effect is Outrider's."""
    for name in _of(operation, "header"):
        if name.lower() in _OF_HTTP or name.lower() == KEY_HEADER or not _is_header(name):
            continue
        if operation.parameters["header", name].get("required") is True:
            yield name
        else:
            operation.remarks.append(f"sent without the header {name[:60]}, which is optional")


def _named(operation: _Operation, place: str, name: str, properties: set[str]) -> str:
    """The argument of a parameter: its name, or with its place where another has that name."""
    bare = _ARGUMENT.sub("_", name).strip("_")[:100] or "value"
    taken = set(operation.names.values()) | properties
    candidates = [bare, f"{place}_{bare}", *(f"{place}_{bare}_{n}" for n in range(2, 2 + len(taken)))]
    argument = next(one for one in candidates if one not in taken)
    operation.names[place, name] = argument
    if argument != name:
        operation.remarks.append(f"the {place} parameter '{name[:60]}' is the argument {argument}")
    return argument


def _body(document: Document, operation: _Operation) -> tuple[Any, set[str]]:
    """The template of the body where all other arguments are not it, and the names of its properties."""
    content = document.at(operation.said.get("requestBody")).get("content")
    media = _json_of(content) if isinstance(content, dict) else None
    if media is None or operation.method in {"GET", "HEAD"}:
        return None, set()
    schema = document.at(media.get("schema"))
    properties = _properties(document, schema)
    if operation.method == "DELETE":  # without a template its arguments would go into the query
        return {name: f"{{args.{name}}}" for name in sorted(properties) if not _ARGUMENT.search(name)} or None, set()
    if properties or schema.get("type") in {None, "object"}:
        return None, properties
    operation.remarks.append("the argument body is the whole body")
    return "{args.body}", {"body"}


def _properties(document: Document, schema: dict[str, Any]) -> set[str]:
    names: set[str] = set()
    waiting: list[Any] = [schema]
    for _ in range(MAX_SCHEMAS):
        if not waiting:
            break
        one = document.at(waiting.pop())
        properties = one.get("properties")
        names.update(str(name) for name in properties if name) if isinstance(properties, dict) else None
        for key in ("allOf", "oneOf", "anyOf"):
            waiting += one[key][:MAX_SCHEMAS] if isinstance(one.get(key), list) else []
    return names
