"""What a raw request says, as arguments: of a declared tool the very ones that its template would make it from, else
method, path, query and body. What could be read in two ways is refused."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl

from outrider.raw.routes import Found
from outrider.raw.target import Target
from outrider.upstreams.template import PLACEHOLDER

FORM: Final = "application/x-www-form-urlencoded"
MAX_FIELDS: Final = 1000
_MISSING = object()


class BadArguments(ValueError):
    """A request whose arguments cannot be read, or could be read in two ways."""


def is_json(content_type: str) -> bool:
    """Whether a body of this type is read as JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def is_form(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == FORM


class Arguments:
    """Gathered from several places; the same one twice must be the same."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def put(self, keys: tuple[str, ...], value: Any) -> None:
        """Raises BadArguments."""
        place = self.found
        for key in keys[:-1]:
            inner = place.setdefault(key, {})
            if not isinstance(inner, dict):
                raise BadArguments(f"The argument '{'.'.join(keys)}' is inside of one that is no object.")
            place = inner
        known = place.get(keys[-1], _MISSING)
        if isinstance(known, dict) and isinstance(value, dict):
            for key, inner in value.items():
                self.put((*keys, key), inner)
        elif known is not _MISSING and _text(known) != _text(value):
            raise BadArguments(f"The argument '{'.'.join(keys)}' is given twice, and differently.")
        elif known is _MISSING or isinstance(known, str):  # the body's own type says more than text of the path
            place[keys[-1]] = value


def of_tool(
    found: Found, target: Target, headers: Mapping[str, str], body: bytes | None, content_type: str
) -> dict[str, Any]:
    """The arguments of a declared tool. ``body`` is None where it cannot be read. Raises BadArguments."""
    arguments = Arguments()
    for keys, text in found.values:
        arguments.put(keys, text)
    for name, value in fields(target.query).items():
        _put_by_template(arguments, found.template.query.get(name), name, value)
    for name, template in found.template.headers.items():
        if PLACEHOLDER.search(template) and name in headers:
            _put_by_template(arguments, template, name, headers[name])
    if body:
        _put_body(arguments, found, body, content_type)
    return arguments.found


def of_request(method: str, target: Target, body: bytes | None, content_type: str) -> dict[str, Any]:
    """The arguments of ``{upstream}.http``. Raises BadArguments."""
    args: dict[str, Any] = {"method": method, "path": target.path, "query": fields(target.query)}
    if body and is_json(content_type):
        args["body"] = _json(body)
    elif body:
        args["body_sha256"] = hashlib.sha256(body).hexdigest()
    return args


def fields(query: str) -> dict[str, Any]:
    """Names and values of a query or a form; of a repeated name a list. Raises BadArguments."""
    if not query:
        return {}
    found: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except UnicodeDecodeError:
        raise BadArguments("The query or form holds an escape that is no UTF-8.") from None
    except ValueError:
        raise BadArguments(f"The query or form has more than {MAX_FIELDS} fields.") from None
    for name, value in pairs:
        if name not in found:
            found[name] = value
        elif isinstance(found[name], list):
            found[name].append(value)
        else:
            found[name] = [found[name], value]
    return found


def _put_body(arguments: Arguments, found: Found, body: bytes, content_type: str) -> None:
    if is_form(content_type):
        said: Any = fields(_form(body))
    elif is_json(content_type):
        said = _json(body)
    else:
        return
    template = found.template.body
    if template is not None:
        said = _rest_of(arguments, template, said, found.tool)
    if isinstance(said, dict):
        for name, value in said.items():
            arguments.put((name,), value)
    elif said is not None:
        arguments.put(("body",), said)


def _rest_of(arguments: Arguments, template: Any, said: Any, tool: str) -> Any:
    """Read a body by its template; what of it the template does not know. Raises BadArguments: it is another body."""
    if isinstance(template, str):
        return _of_text(arguments, template, said, tool)
    if isinstance(template, dict) and isinstance(said, dict):
        for name, inner in template.items():
            if name in said:
                _all_of(arguments, inner, said[name], tool)
        return {name: value for name, value in said.items() if name not in template}
    if isinstance(template, list | tuple) and isinstance(said, list) and len(template) == len(said):
        for inner, value in zip(template, said, strict=True):
            _all_of(arguments, inner, value, tool)
    elif template != said:
        raise _not_of(tool)
    return None


def _of_text(arguments: Arguments, template: str, said: Any, tool: str) -> None:
    names = PLACEHOLDER.findall(template)
    if len(names) == 1 and PLACEHOLDER.fullmatch(template):
        return arguments.put(tuple(names[0][1:].split(".")), said)
    values = _read(template, said) if isinstance(said, str) else None
    if values is None:
        raise _not_of(tool)
    for keys, text in values:
        arguments.put(keys, text)
    return None


def _all_of(arguments: Arguments, template: Any, said: Any, tool: str) -> None:
    """Further inside, what the template does not know has no name among the arguments."""
    if _rest_of(arguments, template, said, tool):
        raise _not_of(tool)


def _not_of(tool: str) -> BadArguments:
    return BadArguments(f"The body is not what {tool} sends (http.body in the policy); its arguments cannot be read.")


def _put_by_template(arguments: Arguments, template: str | None, name: str, value: Any) -> None:
    """A parameter of the query, or a header, read by what the tool writes into it."""
    if template is None or template == value:
        if template is None:
            arguments.put((name,), value)
        return
    values = _read(template, value) if isinstance(value, str) else None
    if values is None:
        raise BadArguments(f"'{name[:80]}' is not what the policy's template for it makes.")
    for keys, text in values:
        arguments.put(keys, text)


def _read(template: str, text: str) -> list[tuple[tuple[str, ...], str]] | None:
    """The placeholders' texts; None where the text is another's, or could be read in several ways."""
    pattern, names = _pattern(template)
    match = pattern.fullmatch(text) if len(names) <= 1 else None
    return None if match is None else list(zip(names, match.groups(), strict=True))


@lru_cache(maxsize=4096)
def _pattern(template: str) -> tuple[re.Pattern[str], tuple[tuple[str, ...], ...]]:
    names = tuple(tuple(found[1][1:].split(".")) for found in PLACEHOLDER.finditer(template))
    literals = PLACEHOLDER.split(template)[::2]
    return re.compile("(.*)".join(re.escape(literal) for literal in literals), re.S), names


def _form(body: bytes) -> str:
    """Raises BadArguments. ``curl --data`` says of everything that it is a form, and some servers do not care."""
    if body.lstrip()[:1] in {b"{", b"[", b'"'}:
        raise BadArguments(
            "The body says it is a form and looks like JSON: send it with Content-Type: application/json."
        )
    try:
        return body.decode("ascii")
    except UnicodeDecodeError:
        raise BadArguments(
            "The body says it is a form and is not percent-encoded: say what it is in Content-Type."
        ) from None


def _json(body: bytes) -> Any:
    """Raises BadArguments: no JSON, or a key twice, of which servers take the first or the last."""
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_object)
    except RecursionError:
        raise BadArguments("The body is nested too deep.") from None
    except ValueError as error:
        if isinstance(error, BadArguments):
            raise
        raise BadArguments(f"The body says it is JSON and is not: {error}") from None


def _object(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise BadArguments(f"The body holds the key {key[:80]!a} twice.")
        found[key] = value
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
