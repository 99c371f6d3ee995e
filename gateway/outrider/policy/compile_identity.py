"""From the section ``identity`` to what the data plane believes."""

from __future__ import annotations

from outrider.policy.draft import Draft
from outrider.policy.identity import IdentitySettings
from outrider.policy.schema_identity import Identity


def identity(made: Draft) -> IdentitySettings:
    """What is not said keeps its default."""
    said = made.section("identity", Identity)
    allowed = said is None or said.shared_token == "allow"  # noqa: S105  # a word of the policy
    return IdentitySettings(shared_token=allowed)
