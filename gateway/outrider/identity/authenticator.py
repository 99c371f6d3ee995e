"""What a bearer's words are worth. Asked by both doors of the data plane, for every call: memory only."""

from __future__ import annotations

import hmac
import logging
from typing import TYPE_CHECKING

from outrider.identity.credential import NO_ISSUER, Credential, Denial, shared
from outrider.identity.keeper import Keeper
from outrider.identity.tokens import PREFIX
from outrider.policy.identity import IdentitySettings

if TYPE_CHECKING:
    from outrider.identity.jwts import Jwts

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
        self._jwts: Jwts | None = None
        self._used_shared = False
        self.configure(settings)

    def configure(self, settings: IdentitySettings) -> None:
        """Take the settings of a newer policy; they count for the next call."""
        newly_allowed = settings.shared_token and self._shared.denial is not None
        self._shared.denial = None if settings.shared_token else REFUSED
        if settings.jwt and self._jwts is None:
            self._jwts = self._reader_of_jwts()
        if self._jwts is not None:
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
        if bearer.count(".") != 2:
            return FOREIGN
        return self._jwts.check(bearer) if self._jwts is not None else NO_ISSUER

    async def close(self) -> None:
        """Fetch no more keys."""
        if self._jwts is not None:
            await self._jwts.close()

    def _reader_of_jwts(self) -> Jwts:
        """Only where a policy names an issuer: what it needs is a tenth of a sidecar's memory."""
        from outrider.identity.jwts import Jwts

        made = Jwts(self._keeper.epochs)
        self._keeper.on_epoch = made.outdate
        return made

    def _told_shared(self) -> Credential:
        """Said once, so that nobody runs on it without knowing."""
        if not self._used_shared:
            self._used_shared = True
            log.warning(
                "the shared agents' token is in use: whoever has it calls under any name. Give each agent a token of "
                "its own (outrider tokens issue NAME), then write identity: {sharedToken: refuse}"
            )
        return self._shared
