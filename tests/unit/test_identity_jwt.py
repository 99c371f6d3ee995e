"""JWTs: what is believed and what is not, keys that rotate, providers that are down, mappings, epochs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jwt
import pytest
from aiohttp import web

from outrider.identity import jwts as jwts_module
from outrider.identity import keyring
from outrider.identity.credential import Credential, Denial
from outrider.identity.epochs import Epochs
from outrider.identity.jwts import Jwts
from outrider.identity.keys import read_keys
from outrider.kills import KillBoard, Lift
from outrider.policy.identity import Claim, IdentitySettings, JwtIssuer, KeysFrom, captured
from tests.support.identity_kit import Ledger, a_kill, keeper_on
from tests.support.issuer import AUDIENCE, ISSUER, Issuer, Provider


@pytest.fixture(scope="module")
def idp() -> Issuer:
    return Issuer()


class World:
    """Verified JWTs over a file of keys."""

    def __init__(self, folder: Path, idp: Issuer) -> None:
        self.file = folder / "jwks.json"
        self.file.write_text(idp.text())
        self.epochs = Epochs()
        self.jwts = Jwts(self.epochs)
        self.issuer = JwtIssuer(ISSUER, "", (AUDIENCE,), KeysFrom(file=str(self.file)))

    async def believe(self, *issuers: JwtIssuer) -> None:
        self.jwts.configure(IdentitySettings(jwt=issuers or (self.issuer,)))
        await self.read()

    async def read(self) -> None:
        rings = self.jwts._rings.values()
        await until(lambda: all(ring.keys is not None and ring._fetching is None for ring in rings))

    def credential(self, token: str) -> Credential:
        found = self.jwts.check(token)
        assert isinstance(found, Credential), found
        return found

    def denial(self, token: str) -> str:
        found = self.jwts.check(token)
        assert isinstance(found, Denial), found
        return found.detail


async def until(holds: Callable[[], bool], patience_s: float = 20.0) -> None:
    end = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < end, "it never came about"
        await asyncio.sleep(0.01)


@pytest.fixture
async def world(tmp_path: Path, idp: Issuer) -> AsyncIterator[World]:
    made = World(tmp_path, idp)
    await made.believe()
    yield made
    await made.jwts.close()


# ── what is believed ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_good_token_names_its_agent(world: World, idp: Issuer) -> None:
    """The subject, unless the policy says otherwise; and no other name."""
    known = world.credential(idp.sign())
    assert (known.agent.name, known.agent.asserted, known.principal.name) == ("researcher", False, "jwt:researcher")
    assert known.agent_named("") == known.agent_named("researcher") == known.agent
    assert known.agent_named("ops") is None and "is of agent 'researcher'" in known.foreign("ops")


async def test_claims_are_mapped_as_the_policy_says(world: World, idp: Issuer) -> None:
    """Agent by a pattern, owner and labels by paths or for all alike, and for whom it acts."""
    await world.believe(
        replace(
            world.issuer,
            agent=Claim(("act", "sub"), "system:serviceaccount:agents:{name}"),
            owner=Claim(("kubernetes.io", "namespace")),
            labels=(("tier", Claim(value="gold")), ("team", Claim(("team",))), ("gone", Claim(("nothing", "here")))),
            on_behalf_of=Claim(("sub",)),
        )
    )
    claims = {"act": {"sub": "system:serviceaccount:agents:writer"}, "kubernetes.io": {"namespace": "agents"}}
    known = world.credential(idp.sign(sub="ann", team="red", **claims))
    assert (known.agent.name, known.agent.owner) == ("writer", "agents")
    assert known.agent.labels == {"tier": "gold", "team": "red"}
    assert (known.principal.name, known.principal.on_behalf_of) == ("jwt:ann", "ann")


@pytest.mark.parametrize(
    ("pattern", "text", "name"),
    [
        ("spiffe://d/agent/{name}", "spiffe://d/agent/a", "a"),
        ("spiffe://d/agent/{name}", "spiffe://d/agent/a/b", ""),
        ("spiffe://d/agent/{name}", "spiffe://d/agent/", ""),
        ("spiffe://d/agent/{name}", "xspiffe://d/agent/a", ""),
        ("spiffe://d.e/{name}/x", "spiffe://dxe/a/x", ""),
        ("{name}", "a\n", "a\n"),
        ("{name}@x", "a@x\n", ""),
    ],
)
def test_a_pattern_captures_one_whole_segment(pattern: str, text: str, name: str) -> None:
    """Everything outside the braces is meant literally, from the first character to the last."""
    assert captured(pattern, text) == name


@pytest.mark.parametrize("algorithm", ["RS256", "PS512", "ES256", "EdDSA"])
async def test_each_algorithm_works_where_it_is_pinned_and_nowhere_else(tmp_path: Path, algorithm: str) -> None:
    """A key of the issuer's is of no use with an algorithm that the policy does not name."""
    idp = Issuer()
    idp.keys.clear()
    idp.add("k", algorithm)
    idp.add("other", "RS256" if algorithm != "RS256" else "ES256")
    made = World(tmp_path, idp)
    await made.believe(replace(made.issuer, algorithms=(algorithm,)))
    assert made.credential(idp.sign("k")).agent.name == "researcher"
    assert f"only {algorithm} is accepted" in made.denial(idp.sign("other"))
    await made.jwts.close()


# ── what is not ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"exp": int(time.time()) - 31}, "has expired"),
        ({"exp": None}, "has no claim 'exp'"),
        ({"nbf": int(time.time()) + 300}, "is not valid yet"),
        ({"iat": int(time.time()) + 300}, "is not valid yet"),
        ({"aud": "somebody-else"}, "is for another audience; this sidecar is outrider"),
        ({"aud": None}, "has no claim 'aud'"),
        ({"sub": None}, "has no claim 'sub'"),
        ({"iss": "https://evil.test"}, "is of 'https://evil.test'; the policy believes: issuer https://idp.test"),
        ({"iss": None}, "is of nobody that can be named"),
        ({"sub": ""}, "names no agent: its claim sub"),
        ({"sub": "a" * 201}, "names no agent"),
        ({"sub": "a*"}, "names no agent"),
        ({"sub": "a\nb"}, "names no agent"),
        ({"sub": 5}, "is not valid"),
        ({"exp": 1e400}, "J"),
        ({"pad": "x" * 9000}, "is larger than 8192 bytes"),
    ],
)
async def test_a_token_that_is_not_for_us_now_is_refused(
    world: World, idp: Issuer, claims: dict[str, Any], said: str
) -> None:
    """Each with its reason."""
    assert said in world.denial(idp.sign(**claims))


async def test_the_leeway_is_for_clocks_that_differ(world: World, idp: Issuer) -> None:
    """Half a minute late is not late."""
    assert world.credential(idp.sign(exp=int(time.time()) - 5))
    assert world.credential(idp.sign(nbf=int(time.time()) + 20))


def _part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


async def test_a_forged_token_is_refused(world: World, idp: Issuer) -> None:
    """No signature, a symmetric one made with the public key, a stranger's key under a known id, a key of its own, a
    changed claim."""
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "admin", "exp": int(time.time()) + 600}
    assert "is signed by 'none'" in world.denial(f"{_part({'alg': 'none'})}.{_part(claims)}.")
    public = json.dumps(idp.jwks()["keys"][0]).encode()
    head = f"{_part({'alg': 'HS256', 'kid': 'k1'})}.{_part(claims)}"
    made = base64.urlsafe_b64encode(hmac.digest(public, head.encode(), hashlib.sha256)).rstrip(b"=").decode()
    assert "is signed by 'HS256'" in world.denial(f"{head}.{made}")
    stranger = Issuer()
    assert "signature is not that of issuer" in world.denial(stranger.sign("k1"))
    embedded = stranger.sign("k1", header={"jwk": stranger.jwks()["keys"][0], "jku": "https://evil.test/keys"})
    assert "signature is not that of issuer" in world.denial(embedded)
    head, _, signature = idp.sign().split(".")
    assert "signature is not that of issuer" in world.denial(f"{head}.{_part(claims)}.{signature}")


async def test_what_nobody_understands_is_refused(world: World, idp: Issuer) -> None:
    """Critical extensions, other kinds of text, and endless nesting."""
    assert world.denial(idp.sign(header={"crit": ["exp"], "exp": 1}))
    for text in ("..", "a.b.c", f"{_part({'alg': 'ES256'})}..", f"{_part([1])}.{_part([1])}.x", "ü.ü.ü"):
        assert isinstance(world.jwts.check(text), Denial), text
    deep = base64.urlsafe_b64encode(b"[" * 30_000).rstrip(b"=").decode()
    assert isinstance(world.jwts.check(f"{_part({'alg': 'ES256'})}.{deep}.AAAA"), Denial)


async def test_without_issuers_no_jwt_is_taken(world: World, idp: Issuer) -> None:
    """The policy has to name whom it believes."""
    world.jwts.configure(IdentitySettings())
    assert "takes no JWTs" in world.denial(idp.sign())


# ── SPIFFE ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_jwt_svid_is_known_by_its_trust_domain(world: World, idp: Issuer) -> None:
    """It needs no `iss`; its subject must be of the domain, and of the form that the policy names."""
    await world.believe(
        replace(
            world.issuer,
            issuer="",
            trust_domain="prod.example",
            agent=Claim(("sub",), "spiffe://prod.example/agent/{name}"),
        )
    )
    known = world.credential(idp.sign(iss=None, sub="spiffe://prod.example/agent/writer"))
    assert (known.agent.name, known.principal.name) == ("writer", "jwt:spiffe://prod.example/agent/writer")
    assert "names no agent" in world.denial(idp.sign(iss=None, sub="spiffe://prod.example/db/writer"))
    for foreign in ("spiffe://prod.example.evil/agent/x", "spiffe://evil/agent/x", "agent/x"):
        assert "the policy believes: trust domain prod.example" in world.denial(idp.sign(iss=None, sub=foreign))


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_rotated_keys_in_a_file_are_read_at_once(tmp_path: Path) -> None:
    """A token with the new key waits for the file to be read once more; one whose key was withdrawn is shown anew."""
    idp = Issuer()
    made = World(tmp_path, idp)
    await made.believe()
    old = made.credential(before := idp.sign("k1"))
    idp.add("k2")
    made.file.write_text(idp.text())
    found = made.jwts.check(after := idp.sign("k2"))
    assert isinstance(found, Denial) and found.until is not None
    await asyncio.wait({found.until})
    assert made.credential(after).agent == old.agent and old.denial is None
    del idp.keys["k1"]
    made.file.write_text(idp.text())
    await until(lambda: old.denial is not None)
    assert old.denial is not None and old.denial.lapsed and "its key was withdrawn" in old.denial.detail
    assert "does not publish" in made.denial(before) and made.credential(after)
    await made.jwts.close()


async def test_unknown_key_ids_are_not_asked_for_again_and_again(
    tmp_path: Path, idp: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood of made-up ids costs the provider one request; a provider that is down costs no known agent a call."""
    stranger = Issuer()
    async with Provider(idp) as provider:
        made = World(tmp_path, idp)
        await made.believe(replace(made.issuer, keys=KeysFrom(url=provider.url)))
        assert provider.asked == 1
        waits = [made.jwts.check(stranger.sign("k1", header={"kid": f"made-up-{n}"})) for n in range(50)]
        assert all(isinstance(found, Denial) for found in waits)
        (until_read,) = {found.until for found in waits if isinstance(found, Denial)}
        assert until_read is not None
        await asyncio.wait({until_read})
        again = made.jwts.check(stranger.sign("k1", header={"kid": "made-up"}))
        assert isinstance(again, Denial) and again.until is None
        assert provider.asked == 2
        provider.answer = lambda: web.Response(status=503)
        monkeypatch.setattr(keyring, "AT_ONCE_EVERY_S", 0.0)
        found = made.jwts.check(stranger.sign("k1", header={"kid": "made-up"}))
        assert isinstance(found, Denial) and found.until is not None
        await asyncio.wait({found.until})
        assert provider.asked == 3 and made.credential(idp.sign())
        await made.jwts.close()


async def test_a_provider_that_comes_late_is_waited_for_in_the_background(
    tmp_path: Path, idp: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then its tokens are refused with why; and its answer is bounded, no redirect is followed, a token of our
    own is sent where the policy says so."""
    monkeypatch.setattr(keyring, "AGAIN_S", 0.05)
    (tmp_path / "token").write_text("who-we-are\n")
    async with Provider(idp) as provider:
        provider.answer = lambda: web.Response(status=302, headers={"Location": "/elsewhere"})
        made = World(tmp_path, idp)
        keys = KeysFrom(url=provider.url, token_file=str(tmp_path / "token"))
        made.jwts.configure(IdentitySettings(jwt=(replace(made.issuer, keys=keys),)))
        await until(lambda: provider.asked > 1)
        assert "answered 302" in made.denial(idp.sign())
        provider.answer = lambda: web.Response(body=b" " * (keyring.MAX_BYTES + 1))
        await until(lambda: "more than" in made.denial(idp.sign()))
        provider.answer = None
        await made.read()
        assert made.credential(idp.sign()) and provider.headers[-1]["Authorization"] == "Bearer who-we-are"
        await made.jwts.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("[]", "no list 'keys'"),
        ('{"keys": 5}', "no list 'keys'"),
        ('{"keys": []}', "no public key for ES256"),
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "no public key"),
        ('{"keys": [5, {"kty": "EC", "crv": "P-256", "x": 1}]}', "no public key"),
        (json.dumps({"keys": [{}] * 101}), "101 keys; at most 100"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_key_set_without_a_usable_key_is_none(text: str, said: str) -> None:
    """Symmetric keys, broken ones and other documents are of no use."""
    with pytest.raises(ValueError, match=said):
        read_keys(text.encode(), ("ES256",))


def test_keys_for_something_else_are_left_out() -> None:
    """For encryption, for signing only, too short, of another algorithm."""
    idp = Issuer()
    assert len(read_keys(json.dumps(idp.jwks(use="jwt-svid")).encode(), ("ES256",))) == 1
    for more in ({"use": "enc"}, {"use": "x509-svid"}, {"key_ops": ["sign"]}, {"alg": "ES384"}):
        with pytest.raises(ValueError, match="no public key"):
            read_keys(json.dumps(idp.jwks(**more)).encode(), ("ES256",))
    idp.keys.clear()
    idp.add("short", "RS256", bits=1024)
    with pytest.raises(ValueError, match="no public key"):
        read_keys(idp.text().encode(), ("RS256",))


async def test_a_token_without_a_key_id_needs_a_set_with_one_key(tmp_path: Path) -> None:
    """Which key it was is otherwise a guess."""
    idp = Issuer()
    made = World(tmp_path, idp)
    await made.believe()
    private = idp.keys["k1"][1]
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "a", "exp": int(time.time()) + 60}
    assert made.credential(jwt.encode(claims, private, "ES256"))
    idp.add("k2")
    made.file.write_text(idp.text())
    await until(lambda: all(ring.keys is not None and len(ring.keys) == 2 for ring in made.jwts._rings.values()))
    assert "a key without an id" in made.denial(jwt.encode({**claims, "sub": "b"}, private, "ES256"))
    await made.jwts.close()


# ── what is remembered, and what ends it ─────────────────────────────────────────────────────────────────────────


async def test_a_token_is_verified_once(world: World, idp: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on it is a look-up, until it is over."""
    token = idp.sign()
    known = world.credential(token)
    monkeypatch.setattr(world.jwts, "_verified", lambda bearer: pytest.fail("verified again"))
    assert world.credential(token) is known


async def test_what_is_remembered_is_bounded(world: World, idp: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tokens an issuer makes."""
    monkeypatch.setattr(jwts_module, "MAX_KNOWN", 3)
    for number in range(5):
        world.credential(idp.sign(jti=str(number)))
    assert len(world.jwts._known) == 3


async def test_a_remembered_token_ends_with_its_time(
    world: World, idp: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By either clock: setting the wall clock back does not prolong it."""
    token = idp.sign()
    known = world.credential(token)
    monkeypatch.setattr("outrider.clock.wall", lambda: time.time() - 10_000)
    assert known.refusal() is None
    monkeypatch.setattr("outrider.clock.monotonic", lambda: time.monotonic() + 700)
    for _ in range(2):
        assert "has expired" in world.denial(token)


async def test_an_epoch_refuses_what_was_issued_before_it(world: World, idp: Issuer) -> None:
    """Remembered ones too, and those that sessions hold; one that says no time of issue may be of any. What is issued
    later than the issuer's clock may differ is accepted."""
    token = idp.sign()
    held = world.credential(token)
    undated = world.credential(idp.sign(iat=None))
    others = world.credential(idp.sign(sub="other"))
    world.epochs.raising("the kill 1", "research*", time.time(), "wild")
    epoch = world.epochs.raised("the kill 1")
    assert epoch is not None
    world.jwts.outdate(epoch)
    assert held.denial is not None and undated.denial is not None and others.denial is None
    said = "was revoked by the kill 1 of research*: wild. One that is issued after that is accepted again."
    assert world.denial(token) == f"This JWT {said}"
    assert said in world.denial(idp.sign(jti="another, just as old"))
    assert said in world.denial(idp.sign(iat=None, jti="2"))
    later = replace(epoch, number=2, at=time.time() - 31)
    world.epochs._by_pattern["research*"] = later
    assert world.credential(idp.sign(jti="new"))


async def test_a_kill_that_was_over_elsewhere_spares_what_was_issued_since(world: World, idp: Issuer) -> None:
    """A sidecar that starts anew is told of kills that were lifted long ago, and the agent beside it has just got its
    token. What was issued before the lift is refused."""
    ledger = Ledger()
    keeper = keeper_on(ledger)
    world.jwts = Jwts(keeper.epochs)
    keeper.on_epoch = world.jwts.outdate
    await world.believe()
    now = time.time()
    fresh, old = idp.sign(), idp.sign(iat=int(now) - 3600)
    held = [world.credential(token) for token in (fresh, old)]
    board: Any = KillBoard(cast(Any, ledger), along=keeper, shared=True)
    over = replace(a_kill(7, "agent:researcher", now - 4000), lifted=Lift(now - 600, "bob", "mended", "pod-b"))
    await board.remember((over,))
    assert [credential.denial is None for credential in held] == [True, False]
    assert world.credential(fresh) and "the kill k7" in world.denial(old)
    await board.adopt(a_kill(8, "agent:researcher", now - 4000))
    assert "the kill k8" in world.denial(fresh), "one that is engaged counts from when it is heard of"


async def test_another_policy_has_tokens_shown_anew(world: World, idp: Issuer) -> None:
    """They may mean something else now; an unchanged issuer's keys and tokens stay."""
    token = idp.sign()
    held = world.credential(token)
    await world.believe()
    assert held.denial is None
    await world.believe(replace(world.issuer, owner=Claim(value="ann")))
    assert held.denial is not None and held.denial.lapsed
    assert world.credential(token).agent.owner == "ann"
