"""Secrets and files that a policy names: ``{env:NAME}`` and ``{file:/path}``, read when the policy is loaded.

What is missing is a fault, never an empty credential. A secret written out is a fault too (E36). No message of this
file ever repeats a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from outrider.policy import plans
from outrider.policy.draft import Draft, Item
from outrider.policy.schema_mcp import McpUpstream
from outrider.policy.schema_upstreams import HttpUpstream, Upstream

MAX_SECRET_BYTES = 64 * 1024

_REFERENCE = re.compile(r"\{(env|file):([^{}]*)\}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_NAME = re.compile(
    r"authorization|cookie|passw|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credential|signature", re.I
)
_SECRET_VALUE = re.compile(
    r"(?i:bearer|basic|token)\s+[A-Za-z0-9._~+/=-]{8,}"
    r"|\b(sk|pk|rk)[-_](live|test|proj|ant)?[-_]?[A-Za-z0-9]{16,}"
    r"|\bort_[0-9a-f]{12}_|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_|\bglpat-|\bxox[abprs]-|\bAKIA[0-9A-Z]{16}\b|\bAIza[0-9A-Za-z_-]{30,}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}|-----BEGIN"
)
"""Schemes of the Authorization header and the published prefixes of well-known services' tokens."""


def looks_secret(name: str, text: str) -> bool:
    """Whether a literal is probably a secret, by its key's name or its own form. References and templates are not."""
    literal = re.sub(r"\{(env|file|args)[:.][^{}]*\}", "", text)
    if _SECRET_VALUE.search(literal):
        return True
    return literal == text and len(literal) >= 4 and _SECRET_NAME.search(name) is not None


class Resolver:
    """Resolves what the upstreams name; faults go to the draft. Relative paths start at the policy's folder."""

    def __init__(self, made: Draft, env: Mapping[str, str], folder: Path) -> None:
        self._draft = made
        self._env = env
        self._folder = folder

    def http(self, item: Item[Upstream]) -> plans.HttpUpstream:
        """An HTTP upstream with its secrets. What could not be resolved is left out, and is a fault."""
        said = item.model.http
        reached = self._reached(item, "http", said)
        return replace(
            reached, safe_statuses=tuple(said.safe_statuses), authorization=said.said().get("authorization", "")
        )

    def mcp(self, item: Item[Upstream]) -> plans.McpUpstream:
        """An MCP server with its secrets. What could not be resolved is left out, and is a fault."""
        said = item.model.mcp
        over_http = said.url is not None
        return plans.McpUpstream(
            http=self._reached(item, "mcp", said) if over_http else None,
            command=tuple(said.command or ()),
            env=self._values(item, ("mcp", "env"), said.env),
            cwd="" if over_http else self._child_folder(item, said.cwd),
            start=said.start,
            protocol=said.protocol,
            trust_annotations=said.trust_annotations,
            drift=said.drift,
            max_response_bytes=said.max_response,
        )

    def _reached(self, item: Item[Upstream], under: str, said: HttpUpstream | McpUpstream) -> plans.HttpUpstream:
        """What both kinds of servers behind HTTP say."""
        return plans.HttpUpstream(
            url=self._url(item, (under, "url"), said.url),
            headers=self._values(item, (under, "headers"), said.headers),
            ca_file=self._file(item, (under, "caFile"), said.ca_file),
            cert_file=self._file(item, (under, "certFile"), said.cert_file),
            key_file=self._file(item, (under, "keyFile"), said.key_file),
            use_env_proxy=said.use_env_proxy,
            max_response_bytes=said.max_response,
        )

    def _child_folder(self, item: Item[Upstream], name: str | None) -> str:
        path = (self._folder / (name or ".")).resolve()
        if not path.is_dir():
            self._fault(item, ("mcp", "cwd"), "E49", f"{name} is no folder.", "name a folder that exists.")
        return str(path)

    def _fault(self, item: Item[Upstream], keys: tuple[str, ...], code: str, message: str, fix: str) -> None:
        self._draft.faults.append(item.fault(keys, code, message, fix))

    def _values(
        self, item: Item[Upstream], under: tuple[str, ...], said: Mapping[str, str] | None
    ) -> dict[str, str | plans.Secret]:
        """Headers, or variables of a child."""
        found: dict[str, str | plans.Secret] = {}
        for name, text in (said or {}).items():
            keys = (*under, name)
            if looks_secret(name, text):
                path = ".".join(str(step) for step in (*item.path, *keys))
                fix = "write {env:NAME} or {file:/path} instead, and change the secret: it stood in a file."
                self._fault(item, keys, "E36", f"secret-looking literal in {path}.", fix)
                continue
            value = self._resolved(item, keys, text)
            if value is not None:
                found[name] = value
        return found

    def _resolved(self, item: Item[Upstream], keys: tuple[str, ...], text: str) -> str | plans.Secret | None:
        """The text with its references filled in; a Secret as soon as it holds one. None after a fault."""
        filled: list[str] = []
        sources: list[str] = []
        end = 0
        for found in _REFERENCE.finditer(text):
            value = self._looked_up(item, keys, found[1], found[2])
            if value is None:
                return None
            filled += [text[end : found.start()], value]
            sources.append(f"{found[1]}:{found[2]}")
            end = found.end()
        rest = text[end:]
        if re.search(r"\{[^{}]*\}", "".join(filled[::2]) + rest):
            fix = "only {env:NAME} and {file:/path} stand in an upstream; {args.name} belongs to a tool's http."
            self._fault(item, keys, "E48", "a template that is not known here.", fix)
            return None
        whole = "".join((*filled, rest))
        if any(ord(character) < 32 or ord(character) == 127 for character in whole):
            self._fault(item, keys, "E49", "holds a line break or another control character.", "remove it there.")
            return None
        return plans.Secret(whole, ", ".join(sources)) if sources else whole

    def _looked_up(self, item: Item[Upstream], keys: tuple[str, ...], kind: str, name: str) -> str | None:
        value, message, fix = self._env_variable(name) if kind == "env" else self._secret_file(name)
        if value is None:
            self._fault(item, keys, "E49", message, fix)
        return value

    def _env_variable(self, name: str) -> tuple[str | None, str, str]:
        if not _ENV_NAME.fullmatch(name):
            return None, f"'{{env:{name}}}' names no environment variable.", "write for example {env:LEDGER_TOKEN}."
        value = self._env.get(name, "")
        if value:
            return value, "", ""
        state = "is empty" if name in self._env else "is not set"
        return None, f"the environment variable {name} {state}.", f"set {name} where the sidecar is started."

    def _secret_file(self, name: str) -> tuple[str | None, str, str]:
        path = self._folder / name
        fix = "write the file, readable by the sidecar's user, with the secret as its only line."
        try:
            if not name or path.stat().st_size > MAX_SECRET_BYTES:
                return None, f"the file {name} is larger than {MAX_SECRET_BYTES} bytes.", fix
            text = path.read_text("utf-8").rstrip("\r\n")
        except (OSError, ValueError) as error:
            return None, f"the file {name} cannot be read: {_why(error)}.", fix
        return (text, "", "") if text else (None, f"the file {name} is empty.", fix)

    def _file(self, item: Item[Upstream], keys: tuple[str, ...], name: str | None) -> str:
        """The absolute path of a PEM file that exists; empty where none is named."""
        if name is None:
            return ""
        path = self._folder / name
        try:
            if "-----BEGIN" not in path.read_text("utf-8"):
                self._fault(item, keys, "E49", f"the file {name} is not PEM.", "name a PEM file.")
        except (OSError, ValueError) as error:
            self._fault(item, keys, "E49", f"the file {name} cannot be read: {_why(error)}.", "name a PEM file.")
        return str(path)

    def _url(self, item: Item[Upstream], keys: tuple[str, ...], text: str) -> str:
        """The base address without a slash at the end. It is shown to people, so it must hold no secret."""
        value = self._resolved(item, keys, text)
        if value is None:
            return ""
        url = value.reveal() if isinstance(value, plans.Secret) else value
        code, message, fix = _url_fault(url)
        if message:
            self._fault(item, keys, code, message, fix)
            return ""
        return url.rstrip("/")


def _why(error: OSError | ValueError) -> str:
    return (error.strerror or "cannot be read") if isinstance(error, OSError) else "it is not UTF-8 text"


def _url_fault(url: str) -> tuple[str, str, str]:
    """Code, message and fix; the message is empty where nothing is wrong."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "E44", "this is not a URL.", "write for example http://127.0.0.1:9000."
    if parts.username is not None or parts.password is not None:
        return "E36", "secret-looking literal in the url.", "send it as a header: Authorization: '{env:NAME}'."
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        return "E44", "a url begins with http:// or https:// and a host.", "write for example http://127.0.0.1:9000."
    if parts.query or parts.fragment or " " in url:
        return "E44", "a url here has no '?', no '#' and no space.", "write parameters into a tool's http.query."
    return "", "", ""
