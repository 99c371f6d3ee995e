"""What a bearer's words are worth. Asked by both doors of the data plane, for every call: memory only."""

from __future__ import annotations

import hmac
import logging

from outrider.identity.credential import Credential, Denial, shared
from outrider.identity.jwts import Jwts
from outrider.identity.keeper import Keeper
from outrider.identity.tokens import PREFIX
from outrider.policy.identity import IdentitySettings

NOTHING = Denial(
    "Send 'Authorization: Bearer TOKEN' with this agent's token: one made by `outrider tokens issue`, or the agents' "
    "token that all share (agent.token in the data folder)."
)
FOREIGN = Denial("This is not the agents' token of this sidecar.")
REFUSED = Denial(
    "The shared agents' token is switched off (identity.sharedToken: refuse in the policy). Use a token of this "
    "agent's own: outrider tokens issue NAME."
)

log = logging.getLogger("outrider.identity")


class Authenticator:
    """``shared_token`` is the one in the data folder."""

    def __init__(self, shared_token: str, keeper: Keeper, settings: IdentitySettings) -> None:
        self._shared_token = shared_token.encode()
        self._shared = shared()
        self._shared.denial = REFUSED  # until the policy was asked
        self._keeper = keeper
        self._jwts = Jwts(keeper.epochs)
        keeper.on_epoch = self._jwts.outdate
        self._used_shared = False
        self.configure(settings)

    def configure(self, settings: IdentitySettings) -> None:
        """Take the settings of a newer policy; they count for the next call."""
        newly_allowed = settings.shared_token and self._shared.denial is not None
        self._shared.denial = None if settings.shared_token else REFUSED
        self._jwts.configure(settings)
        if newly_allowed:
            log.warning("the shared agents' token may be used: whoever has it calls under any name (docs/identity.md)")

    def check(self, bearer: str) -> Credential | Denial:
        """The credential, or why there is none."""
        if bearer.startswith(PREFIX):
            return self._keeper.find(bearer)
        if not bearer:
            return NOTHING
        if hmac.compare_digest(bearer.encode("utf-8", "surrogateescape"), self._shared_token):
            return self._shared.denial or self._told_shared()
        return self._jwts.check(bearer) if bearer.count(".") == 2 else FOREIGN

    async def close(self) -> None:
        """Fetch no more keys."""
        await self._jwts.close()

    def _told_shared(self) -> Credential:
        """Said once, so that nobody runs on it without knowing."""
        if not self._used_shared:
            self._used_shared = True
            log.warning(
                "the shared agents' token is in use: whoever has it calls under any name. Give each agent a token of "
                "its own (outrider tokens issue NAME), then write identity: {sharedToken: refuse}"
            )
        return self._shared
