"""Fingerprints of networks in the short form that requests carry."""

from collections.abc import Iterable

SHORT_DIGITS = 16
"""They tell networks apart where nobody means harm; all 64 would outweigh small payloads."""


def shortened(fingerprint: str) -> str:
    """Return the beginning of a fingerprint.

    Args:
        fingerprint: `ModelGraph.fingerprint`.
    """
    return fingerprint[:SHORT_DIGITS]


def is_fingerprint_of(stated: str, whole: str) -> bool:
    """Return true if a fingerprint, or its beginning, is that of a network.

    Args:
        stated: at least `SHORT_DIGITS` digits; fewer are no fingerprint.
        whole: the network's `ModelGraph.fingerprint`.
    """
    return len(stated) >= SHORT_DIGITS and whole.startswith(stated)


def is_fingerprint_of_one(stated: str, wholes: Iterable[str]) -> bool:
    """Return true if a fingerprint, or its beginning, is that of one of several networks.

    Args:
        stated: at least `SHORT_DIGITS` digits; fewer are no fingerprint.
        wholes: `ModelGraph.fingerprint` of each.
    """
    return any(is_fingerprint_of(stated, whole) for whole in wholes)
