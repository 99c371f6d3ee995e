"""The typed document, its part about who agents are. The rest is in ``schema``."""

from __future__ import annotations

from typing import Literal

from outrider.policy.fields import Model, default


class Identity(Model):
    """Whom agents are believed to be."""

    shared_token: Literal["allow", "refuse"] = default(
        "allow",
        "The one token in the data folder, with which any name may be used: for trying things out. refuse: every agent "
        "needs a credential of its own.",
    )
