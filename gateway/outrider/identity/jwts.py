"""JWTs of identity providers: checked once against the issuer's published keys, then known until they are over.

What was verified is kept by the digest of its text, never the text. It is forgotten when it is over, when its key is no
longer published, when the policy speaks of its issuer otherwise, and when an epoch revokes it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import jwt
from jwt import exceptions as wrong

from outrider import clock
from outrider.calls import Agent, Principal
from outrider.identity.credential import NO_ISSUER, Credential, Denial
from outrider.identity.epochs import Epoch, Epochs
from outrider.identity.keyring import Keyring
from outrider.identity.keys import Key
from outrider.policy.identity import IdentitySettings, JwtIssuer
from outrider.policy.patterns import MAX_NAME, matches

MAX_KNOWN: Final = 10_000
"""Verified tokens that are remembered; the one used longest ago is verified again."""
MAX_BYTES: Final = 64 * 1024

log = logging.getLogger("outrider.identity")


class JwtCredential(Credential):
    """``issued_at`` is its ``iat``, 0.0 where it has none: then it may be of any age."""

    __slots__ = ("issued_at", "issuer", "key_print")

    def __init__(
        self, agent: Agent, principal: Principal, issuer: JwtIssuer, key: Key, claims: Mapping[str, Any]
    ) -> None:
        over_at = float(claims["exp"]) + issuer.leeway_s
        over_mono = clock.monotonic() + over_at - clock.wall()
        super().__init__({agent.name: agent}, principal, "This JWT", over_at, over_mono)
        self.issuer = issuer
        self.key_print = key.print
        self.issued_at = float(claims.get("iat", 0.0))


class Jwts:
    """Belongs to one event loop."""

    def __init__(self, epochs: Epochs) -> None:
        self._epochs = epochs
        self._rings: dict[JwtIssuer, Keyring] = {}
        self._by_issuer: dict[str, Keyring] = {}
        self._by_domain: dict[str, Keyring] = {}
        self._known: OrderedDict[bytes, JwtCredential] = OrderedDict()
        self._alive: weakref.WeakSet[JwtCredential] = weakref.WeakSet()  # those that sessions and calls hold, too
        self._closing: set[asyncio.Task[None]] = set()

    def configure(self, settings: IdentitySettings) -> None:
        """Believe these issuers, and no others."""
        rings = {issuer: self._rings.get(issuer) or Keyring(issuer, self._look_again) for issuer in settings.jwt}
        for issuer, ring in self._rings.items():
            if issuer not in rings:
                task = asyncio.get_running_loop().create_task(ring.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        self._rings = rings
        self._by_issuer = {issuer.issuer: ring for issuer, ring in rings.items() if issuer.issuer}
        self._by_domain = {issuer.trust_domain: ring for issuer, ring in rings.items() if issuer.trust_domain}
        self._look_again()

    async def close(self) -> None:
        rings, self._rings = self._rings, {}
        await asyncio.gather(*(ring.close() for ring in rings.values()), *self._closing, return_exceptions=True)

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────

    def check(self, bearer: str) -> Credential | Denial:
        """What it is worth. Verifying costs some hundred µs, once for each token."""
        digest = hashlib.sha256(bearer.encode("utf-8", "surrogateescape")).digest()
        known = self._known.get(digest)
        if known is not None:
            return known.refusal() or known
        try:
            found = self._verified(bearer)
        except Exception as error:  # whatever a stranger's text makes a library raise
            log.warning("a JWT could not be checked: %s", type(error).__name__)
            return Denial("This JWT cannot be checked.")
        if isinstance(found, Denial):
            return found
        self._alive.add(found)
        self._known[digest] = found
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return found

    def _verified(self, bearer: str) -> JwtCredential | Denial:
        if len(bearer) > MAX_BYTES:
            return Denial(f"This JWT is larger than {MAX_BYTES} bytes.")
        try:
            unverified = jwt.decode_complete(bearer, options={"verify_signature": False})
        except (wrong.PyJWTError, ValueError, RecursionError):
            return Denial("This is neither a token of this sidecar nor a JWT that can be read.")
        header, claims = unverified["header"], unverified["payload"]
        ring = self._ring_of(claims)
        if ring is None:
            return self._stranger(claims)
        if len(bearer) > ring.issuer.max_bytes:
            return Denial(f"This JWT is larger than {ring.issuer.max_bytes} bytes (maxSize of {ring.issuer.who}).")
        key = _key(ring, header)
        if isinstance(key, Denial):
            return key
        checked = _checked(bearer, ring.issuer, key)
        return checked if isinstance(checked, Denial) else self._credential(checked, ring.issuer, key)

    def _ring_of(self, claims: Mapping[str, Any]) -> Keyring | None:
        """Whose it says it is; the signature will tell."""
        issuer, subject = claims.get("iss"), claims.get("sub")
        if isinstance(issuer, str) and issuer in self._by_issuer:
            return self._by_issuer[issuer]
        if isinstance(subject, str) and subject.startswith("spiffe://"):
            return self._by_domain.get(subject.removeprefix("spiffe://").partition("/")[0])
        return None

    def _stranger(self, claims: Mapping[str, Any]) -> Denial:
        if not self._rings:
            return NO_ISSUER
        known = ", ".join(issuer.who for issuer in self._rings)
        return Denial(f"This JWT is of {_shown(claims.get('iss'))}; the policy believes: {known}.")

    def _credential(self, claims: Mapping[str, Any], issuer: JwtIssuer, key: Key) -> JwtCredential | Denial:
        name = issuer.agent.of(claims)
        if not name or len(name) > MAX_NAME or not name.isprintable() or name != name.strip() or "*" in name:
            return Denial(f"This JWT names no agent: {_mapping(issuer)} says nothing that can be an agent's name.")
        labels = {label: text for label, claim in issuer.labels if (text := _fit(claim.of(claims)))}
        agent = Agent(name, labels=labels, owner=_fit(issuer.owner.of(claims)), asserted=False)
        subject = _fit(str(claims.get("sub", ""))) or name
        principal = Principal(f"jwt:{subject}", on_behalf_of=_fit(issuer.on_behalf_of.of(claims)))
        credential = JwtCredential(agent, principal, issuer, key, claims)
        for epoch in self._epochs.covering(name):
            self._outdate(credential, epoch)
        return credential.denial or credential

    # ── what ends it ─────────────────────────────────────────────────────────────────────────────────────────────

    def outdate(self, epoch: Epoch) -> None:
        """A kill or a retirement revokes what was issued until now."""
        for credential in list(self._alive):
            if matches(epoch.pattern, credential.agent.name):
                self._outdate(credential, epoch)

    @staticmethod
    def _outdate(credential: JwtCredential, epoch: Epoch) -> None:
        """The issuer's clock may be ahead of ours: what could have been issued before counts as before."""
        if credential.issued_at <= epoch.at + credential.issuer.leeway_s:
            detail = f"This JWT {epoch.sentence()}. One that is issued after that is accepted again."
            credential.denial = Denial(detail)

    def _look_again(self) -> None:
        """Keys or issuers changed: what they no longer vouch for must be shown anew. What is over or revoked stays
        known as that: a clock that was set back must not make it good again."""
        unvouched: set[JwtCredential] = set()
        for credential in list(self._alive):
            ring = self._rings.get(credential.issuer)
            vouched = ring is not None and (ring.keys is None or credential.key_print in ring.keys.prints)
            if not vouched and credential.denial is None:
                why = "the policy no longer believes its issuer as it did" if ring is None else "its key was withdrawn"
                credential.denial = Denial(f"This JWT must be shown anew: {why}.", lapsed=True)
                unvouched.add(credential)
        for digest in [digest for digest, known in self._known.items() if known in unvouched]:
            del self._known[digest]


def _key(ring: Keyring, header: Mapping[str, Any]) -> Key | Denial:
    issuer, kid, algorithm = ring.issuer, header.get("kid", ""), header.get("alg")
    if "crit" in header or "b64" in header:
        return Denial("This JWT asks for extensions (crit, b64) that are not accepted.")
    if not isinstance(algorithm, str) or algorithm not in issuer.algorithms:
        allowed = ", ".join(issuer.algorithms)
        return Denial(f"This JWT is signed by {_shown(algorithm)}; of {issuer.who} only {allowed} is accepted.")
    if not isinstance(kid, str):
        return Denial("This JWT's key id is no text.")
    if ring.keys is None:
        return Denial(f"The keys of {issuer.who} cannot be read: {ring.trouble}.", until=ring.at_once())
    key = ring.keys.find(kid, algorithm)
    if key is not None:
        return key
    if kid and ring.keys.has(kid):
        return Denial(f"This JWT says {algorithm}, which the key {_shown(kid)} of {issuer.who} is not for.")
    named = f"the key {_shown(kid)}" if kid else "a key without an id"
    return Denial(f"This JWT is signed with {named}, which {issuer.who} does not publish.", until=ring.at_once())


def _checked(bearer: str, issuer: JwtIssuer, key: Key) -> Mapping[str, Any] | Denial:
    """The claims, once the signature and everything that limits them hold."""
    try:
        claims: Mapping[str, Any] = jwt.decode(
            bearer,
            key.jwk,
            algorithms=[key.jwk.algorithm_name],
            audience=list(issuer.audience),
            issuer=issuer.issuer or None,
            leeway=issuer.leeway_s,
            options={"require": ["exp", "aud", "sub"]},
        )
    except wrong.PyJWTError as error:
        return Denial(_sentence(error, issuer))
    home = f"spiffe://{issuer.trust_domain}/"
    if issuer.trust_domain and not str(claims["sub"]).startswith(home):
        return Denial(f"This JWT's subject is not of {issuer.who}.")
    return claims


def _sentence(error: wrong.PyJWTError, issuer: JwtIssuer) -> str:
    match error:
        case wrong.ExpiredSignatureError():
            return "This JWT has expired. Get a fresh one."
        case wrong.ImmatureSignatureError():
            return "This JWT is not valid yet (nbf or iat lies ahead): is a clock wrong?"
        case wrong.InvalidAudienceError():
            return f"This JWT is for another audience; this sidecar is {', '.join(issuer.audience)}."
        case wrong.MissingRequiredClaimError():
            return f"This JWT has no claim '{error.claim}', which it needs."
        case wrong.InvalidSignatureError():
            return f"This JWT's signature is not that of {issuer.who}."
    return f"This JWT is not valid: {error}."


def _mapping(issuer: JwtIssuer) -> str:
    of = f" of the form {issuer.agent.pattern}" if issuer.agent.pattern else ""
    return f"its claim {'/'.join(issuer.agent.path)}{of}"


def _fit(text: str) -> str:
    """A text of a claim as everything here can hold it."""
    return text[:MAX_NAME] if text.isprintable() else ""


def _shown(value: object) -> str:
    text = str(value)[:80]
    return f"'{text}'" if value is not None and text.isprintable() else "nobody that can be named"
