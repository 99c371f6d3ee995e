"""The public keys of an issuer: a JSON Web Key Set (RFC 7517), read strictly. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from jwt import PyJWK
from jwt.exceptions import PyJWTError

MAX_KEYS: Final = 100
SIGNING: Final = ("sig", "jwt-svid")
"""What a key is for; the second is SPIFFE's word, beside its keys of certificates."""
MIN_RSA_BITS: Final = 2048
_FITS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
"""Which algorithms a kind of key is for. A symmetric key is for none: it has no business in a published set."""


class Key:
    """One key for one algorithm. ``print`` tells it from every other, also from one that took its id."""

    __slots__ = ("jwk", "kid", "print")

    def __init__(self, data: Mapping[str, Any], algorithm: str) -> None:
        self.jwk = PyJWK(dict(data), algorithm)
        self.kid = str(data.get("kid", ""))
        self.print = hashlib.sha256(json.dumps([data, algorithm], sort_keys=True).encode()).digest()


class KeySet:
    """Keys by id and algorithm."""

    def __init__(self, keys: Mapping[tuple[str, str], Key]) -> None:
        self._keys = keys
        self.prints = frozenset(key.print for key in keys.values())

    def find(self, kid: str, algorithm: str) -> Key | None:
        """The key of a token's header. Without an id there must be only one for its algorithm."""
        if kid:
            return self._keys.get((kid, algorithm))
        fitting = [key for (_, known), key in self._keys.items() if known == algorithm]
        return fitting[0] if len(fitting) == 1 else None

    def has(self, kid: str) -> bool:
        return any(known == kid for known, _ in self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def read_keys(text: bytes, algorithms: Sequence[str]) -> KeySet:
    """The usable keys of a set; others in it (for encryption, symmetric, too short) are left out. Raises ValueError,
    which says what is wrong, where none is left."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("it is no JSON Web Key Set: it has no list 'keys'")
    if len(entries) > MAX_KEYS:
        raise ValueError(f"it has {len(entries)} keys; at most {MAX_KEYS}")
    found = {}
    for entry in entries:
        for algorithm in _algorithms_of(entry, algorithms):
            key = _usable(entry, algorithm)
            if key is not None:
                found[key.kid, algorithm] = key
    if not found:
        raise ValueError(f"it holds no public key for {', '.join(algorithms)}")
    return KeySet(found)


def _algorithms_of(entry: Any, allowed: Sequence[str]) -> Iterator[str]:
    if (
        not isinstance(entry, dict)
        or entry.get("use", "sig") not in SIGNING
        or not isinstance(entry.get("kid", ""), str)
    ):
        return
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return
    curve = str(entry.get("crv", "")) if entry.get("kty") != "RSA" else ""
    for algorithm in _FITS.get((str(entry.get("kty")), curve), ()):
        if algorithm in allowed and entry.get("alg", algorithm) == algorithm:
            yield algorithm


def _usable(entry: Mapping[str, Any], algorithm: str) -> Key | None:
    try:
        public = {name: value for name, value in entry.items() if name not in {"d", "p", "q", "dp", "dq", "qi", "oth"}}
        key = Key(public, algorithm)
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
    bits = getattr(key.jwk.key, "key_size", MIN_RSA_BITS) if entry.get("kty") == "RSA" else MIN_RSA_BITS
    return key if bits >= MIN_RSA_BITS else None
