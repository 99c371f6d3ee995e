"""Certificates for tests of TLS, made anew each time: no key is kept in the repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificate:
    """PEM files: what to trust, and a certificate with its key for 127.0.0.1."""

    ca: Path
    cert: Path
    key: Path


def certificate(folder: Path, name: str) -> Certificate:
    """A certificate of a CA of its own."""
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1", "localhost")
    made = Certificate(folder / f"{name}-ca.pem", folder / f"{name}.pem", folder / f"{name}.key")
    ca.cert_pem.write_to_path(made.ca)
    issued.private_key_pem.write_to_path(made.key)
    made.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return made
