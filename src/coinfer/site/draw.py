"""Which version of a policy decides about a request: drawn from the request's id, so that two can know it.

The device draws the id, the controller the salt, and a server knows only then who is to decide. The controller draws
again when the device reports what the request took: it need not ask the server which version decided.
"""

import hashlib
import random
from collections.abc import Mapping
from typing import TypeVar

Version = TypeVar("Version")


def place(salt: str, request: str) -> float:
    """Return a number from 0 to 1, evenly distributed over requests.

    Args:
        salt: of the server's present stage; empty draws by chance.
        request: its id; empty draws by chance.
    """
    if not salt or not request:
        return random.random()
    digest = hashlib.blake2b(f"{salt} {request}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def drawn(shares: Mapping[Version, float], at: float) -> Version:
    """Return the version that decides.

    Args:
        shares: of the versions, in an order that both sides know; at least one.
        at: from `place`.
    """
    for version, share in shares.items():
        at -= share
        if at < 0:
            return version
    return next(iter(shares))
