"""From the section ``identity`` to what the data plane believes, and what is wrong with it."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from outrider.errors import Fault
from outrider.policy.draft import Draft, Item
from outrider.policy.identity import CAPTURE, Claim, IdentitySettings, JwtIssuer, KeysFrom
from outrider.policy.schema_identity import AgentClaim, ClaimText, Identity, Jwks, Jwt

MAX_FILE_BYTES = 256 * 1024


def identity(made: Draft, folder: Path) -> IdentitySettings:
    """What is not said keeps its default."""
    said = made.section("identity", Identity)
    if said is None:
        return IdentitySettings()
    allowed = said.shared_token == "allow"  # noqa: S105  # a word of the policy
    return IdentitySettings(allowed, tuple(_issuer(jwt, folder) for jwt in said.jwt))


def _issuer(said: Jwt, folder: Path) -> JwtIssuer:
    return JwtIssuer(
        issuer=said.issuer or "",
        trust_domain=said.trust_domain or "",
        audience=tuple(said.audience),
        keys=_keys(said.jwks, folder),
        algorithms=tuple(said.algorithms),
        leeway_s=said.leeway,
        max_bytes=said.max_size,
        agent=_claim(said.agent) if said.agent is not None else Claim(("sub",)),
        owner=_claim(said.owner),
        labels=tuple((name, _claim(label)) for name, label in (said.labels or {}).items()),
        on_behalf_of=_claim(said.on_behalf_of),
    )


def _keys(said: Jwks, folder: Path) -> KeysFrom:
    def at(name: str | None) -> str:
        return str(folder / name) if name else ""

    return KeysFrom(at(said.file), said.url or "", at(said.ca_file), at(said.token_file), said.refresh)


def _claim(said: AgentClaim | ClaimText | None) -> Claim:
    if said is None:
        return Claim()
    return Claim(path_of(said.claim or ""), said.pattern or "", getattr(said, "value", None) or "")


def path_of(claim: str) -> tuple[str, ...]:
    """``sub`` is a claim's name, ``/act/sub`` a JSON Pointer (RFC 6901)."""
    if not claim.startswith("/"):
        return (claim,) if claim else ()
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in claim[1:].split("/"))


# ── what is wrong with it ────────────────────────────────────────────────────────────────────────────────────────


def check_identity(made: Draft, folder: Path) -> Iterator[Fault]:
    """Codes E49, E53, E61, E62, W60."""
    item: Item[Identity] | None = made.sections.get("identity")
    if item is None or not item.model.jwt:
        return
    if "shared_token" not in item.model.model_fields_set:
        message = "beside identity.jwt the shared token is still allowed: whoever has it calls under any name."
        fix = "write 'sharedToken: refuse', or 'sharedToken: allow' if that is meant."
        yield item.fault(("jwt",), "W60", message, fix)
    yield from _twice(item)
    for index, jwt in enumerate(item.model.jwt):
        yield from _reachable(item, index, jwt.jwks, folder)
        yield from _fitting(item, index, jwt)


def _twice(item: Item[Identity]) -> Iterator[Fault]:
    known: dict[str, int] = {}
    for index, jwt in enumerate(item.model.jwt):
        who = f"issuer '{jwt.issuer}'" if jwt.issuer else f"trust domain '{jwt.trust_domain}'"
        first = known.setdefault(who, index)
        if first != index:
            key = "issuer" if jwt.issuer else "trustDomain"
            message = f"the {who} is said twice (first at {item.at('jwt', first, key)})."
            yield item.fault(("jwt", index, key), "E62", message, "join the two: audience may hold several.")


def _fitting(item: Item[Identity], index: int, jwt: Jwt) -> Iterator[Fault]:
    """A pattern that no subject of this trust domain has would refuse everybody."""
    pattern = jwt.agent.pattern if jwt.agent is not None and jwt.agent.claim == "sub" else None
    home = f"spiffe://{jwt.trust_domain}/"
    if jwt.trust_domain and pattern and not pattern.startswith(home):
        message = f"no subject of this trust domain is of the form '{pattern[:80]}'."
        yield item.fault(("jwt", index, "agent", "pattern"), "E53", message, f"write {home}…/{CAPTURE}.")


def _reachable(item: Item[Identity], index: int, said: Jwks, folder: Path) -> Iterator[Fault]:
    at = ("jwt", index, "jwks")
    if said.url and (wrong := _url_fault(said.url)):
        yield item.fault((*at, "url"), "E61", wrong, "write https://…; http:// only for 127.0.0.1, [::1] or localhost.")
    for key, name in (("file", said.file), ("caFile", said.ca_file), ("tokenFile", said.token_file)):
        if not name:
            continue
        text, why = _read(folder / name)
        if why:
            fix = "write the file, readable by the sidecar's user."
            yield item.fault((*at, key), "E49", f"the file {name} {why}.", fix)
        elif key == "file" and (wrong := _jwks_fault(text)):
            fix = 'save what the issuer publishes, a JSON Web Key Set: {"keys": [{"kty": "RSA", …}]}.'
            yield item.fault((*at, key), "E61", f"the file {name} {wrong}.", fix)
        elif key == "caFile" and b"-----BEGIN" not in text:
            yield item.fault((*at, key), "E49", f"the file {name} is not PEM.", "name a PEM file.")


def _read(path: Path) -> tuple[bytes, str]:
    """The file's bytes, or what is wrong with it."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        return b"", f"cannot be read: {error.strerror or 'cannot be read'}"
    if len(text) > MAX_FILE_BYTES:
        return b"", f"is larger than {MAX_FILE_BYTES} bytes"
    return (text, "") if text.strip() else (b"", "is empty")


def _jwks_fault(text: bytes) -> str:
    """What is surely wrong with a key set; which of its keys can be used is seen when it is read to be used."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return "is not JSON"
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        return "is no JSON Web Key Set"
    kinds = {key.get("kty") for key in keys if isinstance(key, dict)}
    return "" if kinds & {"RSA", "EC", "OKP"} else "holds no public key"


def _url_fault(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "this is not a URL."
    if parts.scheme not in {"http", "https"} or not host or " " in url or parts.fragment:
        return "this is not an address keys can be fetched from."
    if parts.username is not None or parts.password is not None:
        return "a secret stands in the url."
    if parts.scheme == "http" and not _is_loopback(host):
        return "over http:// anybody on the way could put a key of their own in."
    return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
