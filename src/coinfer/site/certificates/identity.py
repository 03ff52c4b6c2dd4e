"""A node's own certificate, read again when its files change, so that renewing needs no restart."""

import datetime
import logging
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from coinfer.files import write_atomic
from coinfer.site.certificates.authority import CA, NODE, REVOKED, identity_of, revoked_serials
from coinfer.site.certificates.roles import Peer, Role, SecurityError

CHECK_INTERVAL_S = 0.5
"""Files are looked at this often at most."""
_log = logging.getLogger("coinfer.site")


class Material(NamedTuple):
    """All that a connection needs, as it was in the files at one moment."""

    authority_pem: bytes
    node_pem: bytes
    """Key and certificate, as in the file."""
    peer: Peer
    """Whom the certificate names."""
    expires: datetime.datetime
    revoked: frozenset[int]
    version: int
    """Counts the changes of key and certificate; clients rebuild their channels when it grows."""

    @property
    def key_pem(self) -> bytes:
        """Return the private key."""
        return self.node_pem.partition(b"-----BEGIN CERTIFICATE-----")[0]

    @property
    def certificate_pem(self) -> bytes:
        """Return the certificate."""
        _, mark, rest = self.node_pem.partition(b"-----BEGIN CERTIFICATE-----")
        return mark + rest


class Identity:
    """A member's folder, which several threads may read from.

    Args:
        folder: holds `ca.pem`, `node.pem` and `revoked.pem`.

    Raises:
        SecurityError: if a file is missing, damaged or of another site, or the certificate has expired.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()
        self._stamp: tuple[object, ...] = self._stamps()
        self._material = self._load(-1)
        self._checked_s = time.monotonic()
        if self._material.expires <= datetime.datetime.now(datetime.timezone.utc):
            peer = self._material.peer
            ended = f"{self._material.expires:%Y-%m-%d %H:%M} UTC"
            raise SecurityError(f"{folder}: the certificate of {peer.name} expired on {ended}; `coinfer ca renew` it")

    @property
    def peer(self) -> Peer:
        """Return who this node is."""
        return self._material.peer

    def current(self) -> Material:
        """Return what the files hold now; if they hold nothing usable, what they held before."""
        with self._lock:
            if time.monotonic() - self._checked_s >= CHECK_INTERVAL_S:
                self._checked_s = time.monotonic()
                self._read_again()
            return self._material

    def check(self, certificate_pem: bytes, expected: Role | None = None) -> Peer:
        """Return whom another node's certificate names, if that node may still be talked to.

        TLS has checked who signed it when the connection began; this is checked again with every call.

        Args:
            certificate_pem: of the other node.
            expected: role that it must have, if any.

        Raises:
            SecurityError: if it has expired, was revoked, or names nobody of a site.
        """
        facts = _facts(certificate_pem)
        if facts.peer is None or (expected is not None and facts.peer.role != expected):
            raise SecurityError("this certificate names no member of a site" if facts.peer is None else "wrong role")
        if facts.expires <= datetime.datetime.now(datetime.timezone.utc):
            raise SecurityError(f"the certificate of {facts.peer.name} has expired; renew it")
        if facts.serial in self.current().revoked:
            raise SecurityError(f"the certificate of {facts.peer.name} was revoked")
        return facts.peer

    def revocations(self) -> bytes:
        """Return the revocation list, as in the file."""
        return (self.folder / REVOKED).read_bytes()

    def adopt_revocations(self, pem: bytes) -> bool:
        """Take over a revocation list that came from elsewhere, if this site's authority signed it and it is newer.

        Args:
            pem: the list.

        Returns:
            True if it was taken over.
        """
        try:
            authority = x509.load_pem_x509_certificate(self.current().authority_pem)
            if not revoked_serials(pem, authority) > self.current().revoked:
                return False
            write_atomic(self.folder / REVOKED, pem)
        except (SecurityError, OSError) as error:
            _log.warning("a revocation list was not taken over: %s", error)
            return False
        with self._lock:
            self._read_again()
        return True

    def _read_again(self) -> None:
        try:
            stamp = self._stamps()
            if stamp == self._stamp:
                return
            self._material, self._stamp = self._load(self._material.version), stamp
        except SecurityError as error:
            _log.warning("%s; the certificate that was read before stays in use", error)

    def _stamps(self) -> tuple[object, ...]:
        try:
            stats = [(self.folder / name).stat() for name in (CA, NODE, REVOKED)]
        except OSError as error:
            hint = "a member's folder is made by `coinfer ca join`"
            raise SecurityError(f"{error.filename}: {error.strerror}; {hint}") from None
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)

    def _load(self, version: int) -> Material:
        try:
            authority_pem, node_pem, revoked_pem = ((self.folder / name).read_bytes() for name in (CA, NODE, REVOKED))
            authority = x509.load_pem_x509_certificate(authority_pem)
            certificate = x509.load_pem_x509_certificate(node_pem)
            certificate.verify_directly_issued_by(authority)
            revoked = revoked_serials(revoked_pem, authority)
        except OSError as error:
            raise SecurityError(f"{error.filename}: {error.strerror}") from None
        except Exception as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise SecurityError(f"{self.folder}: not the files of one member of a site: {reason}") from None
        peer = identity_of(certificate)
        if peer is None:
            raise SecurityError(f"{self.folder / NODE}: this certificate names no member of a site")
        changed = not hasattr(self, "_material") or (node_pem, authority_pem) != (
            self._material.node_pem,
            self._material.authority_pem,
        )
        return Material(authority_pem, node_pem, peer, certificate.not_valid_after_utc, revoked, version + int(changed))


class _Facts(NamedTuple):
    peer: Peer | None
    serial: int
    expires: datetime.datetime


@lru_cache(maxsize=4096)
def _facts(certificate_pem: bytes) -> _Facts:
    """Return what `check` needs of a certificate; it is the same in every call over a connection."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    return _Facts(identity_of(certificate), certificate.serial_number, certificate.not_valid_after_utc)


def find_identity(folder: Path, role: Role) -> Identity:
    """Return the identity of a role in a folder: that of a member, or of a site in which one member has the role.

    Args:
        folder: as given to `--site`.
        role: of the node that starts.

    Raises:
        SecurityError: if there is none or a choice, or the certificate is of another role.
    """
    if not folder.is_dir():
        raise SecurityError(f"{folder}: no such folder; create a site with `coinfer ca init {folder}`")
    if (folder / NODE).exists():
        identity = Identity(folder)
        if identity.peer.role != role:
            have = f"the certificate of {identity.peer.name} is of role {identity.peer.role}"
            raise SecurityError(f"{folder}: {have}; expected {role}")
        return identity
    fitting: list[str] = []
    for path in sorted(folder.glob(f"*/{NODE}")):
        peer = identity_of(x509.load_pem_x509_certificate(path.read_bytes()))
        fitting += [path.parent.name] if peer is not None and peer.role == role else []
    if not fitting:
        hint = f"add one with `coinfer ca join {folder} NAME --role {role}`"
        raise SecurityError(f"{folder}: no member of role {role}; {hint}")
    if len(fitting) > 1:
        raise SecurityError(f"{folder}: {', '.join(fitting)} have role {role}; say which: --site {folder / fitting[0]}")
    return Identity(folder / fitting[0])
