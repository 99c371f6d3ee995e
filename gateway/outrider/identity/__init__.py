"""Who calls: the credentials of agents, and what becomes of them.

    tokens       issued here, one for each agent; stored as a hash
    jwt, keys    of an identity provider, checked against its published keys and mapped by the policy
    epochs       what a kill or the retirement of an agent revokes
    keeper       issues and revokes, durably; the index that calls are checked against
    authenticator  what a bearer's words are worth; asked by both doors of the data plane

A check is memory only. What was revoked is refused from the moment the revocation is acknowledged, whatever the disk
does; what was issued is there once it is on disk.
"""

from outrider.identity.authenticator import Authenticator
from outrider.identity.credential import Credential, Denial
from outrider.identity.keeper import Keeper

__all__ = ["Authenticator", "Credential", "Denial", "Keeper"]
