"""An identity provider for tests: keys, the set it publishes, and tokens of any form."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import jwt
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

ISSUER = "https://idp.test"
AUDIENCE = "outrider"


class Issuer:
    """Signs with its newest key; publishes all that were not withdrawn."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, Any]] = {}
        self.add("k1")

    def add(self, kid: str, algorithm: str = "ES256", bits: int = 2048) -> None:
        made: Any = ec.generate_private_key(ec.SECP256R1())
        if algorithm.startswith(("RS", "PS")):
            made = rsa.generate_private_key(65537, bits)
        elif algorithm == "EdDSA":
            made = ed25519.Ed25519PrivateKey.generate()
        self.keys[kid] = (algorithm, made)

    def jwks(self, **more: Any) -> dict[str, Any]:
        return {"keys": [self._public(kid) | more for kid in self.keys]}

    def text(self) -> str:
        return json.dumps(self.jwks())

    def _public(self, kid: str) -> dict[str, Any]:
        algorithm, private = self.keys[kid]
        shown = get_default_algorithms()[algorithm].to_jwk(private.public_key(), as_dict=True)
        return {**shown, "kid": kid, "use": "sig", "alg": algorithm}

    def sign(self, kid: str | None = None, *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A good token but for what is said. A claim that is None is left out."""
        kid = kid or list(self.keys)[-1]
        algorithm, private = self.keys[kid]
        now = time.time()
        known = {"iss": ISSUER, "aud": AUDIENCE, "sub": "researcher", "iat": int(now), "exp": int(now) + 600, **claims}
        payload = {name: value for name, value in known.items() if value is not None}
        return jwt.encode(payload, private, algorithm, {"kid": kid, **(header or {})})


class Provider:
    """Publishes an issuer's keys over HTTP on loopback, counts who asks, and breaks when told to."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.asked = 0
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[], web.Response] | None = None
        app = web.Application()
        app.router.add_get("/keys", self._keys)
        self._server = TestServer(app)

    async def _keys(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.headers.append(dict(request.headers))
        return self.answer() if self.answer is not None else web.json_response(self.issuer.jwks())

    async def __aenter__(self) -> Provider:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    @property
    def url(self) -> str:
        return str(self._server.make_url("/keys"))
