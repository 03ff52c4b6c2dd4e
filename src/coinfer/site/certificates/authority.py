"""The authority of a site: it issues certificates with roles, and revokes them.

The folder of a site holds `ca.pem`, `ca.key` and `revoked.pem` (a list as X.509 has it), and a folder for each member
with all that this member needs: `ca.pem`, `node.pem` (key and certificate in one file, so that both change together)
and `revoked.pem`. A member's folder may be copied to another machine; `ca.key` never leaves its own.
"""

import datetime
import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coinfer.files import write_atomic
from coinfer.site.certificates.roles import Peer, Role, SecurityError, check_name, parse_identity, server_name

CA_DAYS = 3650
NODE_DAYS = 90
CA, CA_KEY, NODE, REVOKED = "ca.pem", "ca.key", "node.pem", "revoked.pem"
_EARLY = datetime.timedelta(minutes=10)
"""Certificates are valid from a little before they are issued, for members whose clocks run late."""


class Member(NamedTuple):
    """A member of a site, as its certificate describes it."""

    peer: Peer
    serial: int
    expires: datetime.datetime
    revoked: bool


def create_authority(folder: Path, name: str = "") -> None:
    """Create the authority of a new site.

    Args:
        folder: is created; must not hold an authority yet.
        name: of the site; that of the folder if empty.

    Raises:
        SecurityError: if there is an authority already.
    """
    if (folder / CA).exists() or (folder / CA_KEY).exists():
        raise SecurityError(f"{folder}: a site is here already; add members with `coinfer ca join {folder} NAME`")
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"coinfer site {name or folder.resolve().name}"[:64])])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = _builder(subject, subject, key.public_key(), CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    certificate = builder.add_extension(usage, critical=True).sign(key, hashes.SHA256())
    _write_secret(folder / CA_KEY, _key_pem(key))
    write_atomic(folder / CA, certificate.public_bytes(serialization.Encoding.PEM))
    _write_revoked(folder, certificate, key, [])


def issue(folder: Path, name: str, role: Role, *, days: float = NODE_DAYS, hosts: Sequence[str] = ()) -> Path:
    """Issue a certificate to a new member.

    Args:
        folder: of the site.
        name: of the member.
        role: what it may do.
        days: for which the certificate is valid.
        hosts: names and IP addresses under which browsers reach it; those of this machine are added for a controller.

    Returns:
        The member's folder.

    Raises:
        SecurityError: if there is no site, or a member of this name, or the site's authority ends before.
    """
    known = next((member for member in members(folder) if member.peer.name == check_name(name)), None)
    if known is not None and not known.revoked and known.expires > _now():
        raise SecurityError(f"{folder}: {name} is a member already; `coinfer ca renew {folder} {name}` renews it")
    return _issue(folder, Peer(name, role), days, [*hosts, *(_own_hosts() if role == "controller" else ())])


def renew(folder: Path, name: str, *, days: float = NODE_DAYS) -> Path:
    """Give a member a new key and certificate, of the same role and hosts; its node takes them up while it runs.

    Args:
        folder: of the site.
        name: of the member.
        days: for which the new certificate is valid.

    Returns:
        The member's folder.

    Raises:
        SecurityError: if there is no such member, it was revoked, or the site's authority ends before.
    """
    known = _member(folder, name)
    if known.revoked:
        again = f"`coinfer ca join {folder} {name} --role {known.peer.role}` admits it again"
        raise SecurityError(f"{folder}: {name} was revoked; {again}")
    old = x509.load_pem_x509_certificate((folder / name / NODE).read_bytes())
    names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return _issue(folder, known.peer, days, [host for host in hosts if host != server_name(known.peer.role)])


def _issue(folder: Path, peer: Peer, days: float, hosts: Sequence[str]) -> Path:
    certificate, key = _authority(folder)
    left_days = (certificate.not_valid_after_utc - _now()) / datetime.timedelta(days=1)
    if not days <= left_days:
        ends = f"the site's authority, which ends on {certificate.not_valid_after_utc:%Y-%m-%d}"
        hint = f"choose --days up to {int(left_days)}" if left_days >= 1 else "create a new site with `coinfer ca init`"
        raise SecurityError(f"a certificate for {days:g} days would outlive {ends}; {hint}")
    own = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, peer.name)])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
    builder = _builder(subject, certificate.subject, own.public_key(), days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(usage, critical=False)
    names = x509.SubjectAlternativeName(_alternative_names(peer, hosts))
    issued = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    home = folder / peer.name
    home.mkdir(exist_ok=True)
    for shared in (CA, REVOKED):
        write_atomic(home / shared, (folder / shared).read_bytes())
    _write_secret(home / NODE, _key_pem(own) + issued.public_bytes(serialization.Encoding.PEM))
    if peer.role == "operator":
        bundle = pkcs12.serialize_key_and_certificates(
            peer.name.encode(), own, issued, [certificate], serialization.NoEncryption()
        )
        _write_secret(home / f"{peer.name}.p12", bundle)
    return home


def revoke(folder: Path, name: str) -> Member:
    """Revoke a member's certificate, in the list of the site and in the copies of its members' folders.

    Args:
        folder: of the site.
        name: of the member.

    Returns:
        The member as it was.

    Raises:
        SecurityError: if there is no such member.
    """
    certificate, key = _authority(folder)
    member = _member(folder, name)
    serials = sorted({*revoked_serials((folder / REVOKED).read_bytes(), certificate), member.serial})
    _write_revoked(folder, certificate, key, serials)
    for copy in folder.glob(f"*/{REVOKED}"):
        write_atomic(copy, (folder / REVOKED).read_bytes())
    return member


def members(folder: Path) -> list[Member]:
    """Return the members of a site by name, from the certificates in their folders.

    Args:
        folder: of the site.

    Raises:
        SecurityError: if it is no site's folder.
    """
    certificate = _authority_certificate(folder)
    revoked = revoked_serials((folder / REVOKED).read_bytes(), certificate)
    found: list[Member] = []
    for path in sorted(folder.glob(f"*/{NODE}")):
        issued = x509.load_pem_x509_certificate(path.read_bytes())
        peer = identity_of(issued)
        if peer is not None:
            number = issued.serial_number
            found.append(Member(peer, number, issued.not_valid_after_utc, number in revoked))
    return found


def identity_of(certificate: x509.Certificate) -> Peer | None:
    """Return whom a certificate names; None if it is none of a site's.

    Args:
        certificate: of any kind.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    return parse_identity(names.get_values_for_type(x509.UniformResourceIdentifier))


def revoked_serials(pem: bytes, authority: x509.Certificate) -> frozenset[int]:
    """Return the serial numbers in a revocation list.

    Args:
        pem: the list.
        authority: must have signed it.

    Raises:
        SecurityError: if the list is damaged or someone else's.
    """
    try:
        revoked = x509.load_pem_x509_crl(pem)
        key = authority.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        if revoked.is_signature_valid(key):
            return frozenset(entry.serial_number for entry in revoked)
    except ValueError:
        pass
    raise SecurityError("this is no revocation list of this site's authority")


def _member(folder: Path, name: str) -> Member:
    member = next((member for member in members(folder) if member.peer.name == name), None)
    if member is None:
        raise SecurityError(f"{folder}: no member {name}; `coinfer ca list {folder}` shows them")
    return member


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = _authority_certificate(folder)
    if not (folder / CA_KEY).exists():
        raise SecurityError(f"{folder}: {CA_KEY} is not here; certificates are issued where `coinfer ca init` was run")
    key = serialization.load_pem_private_key((folder / CA_KEY).read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return certificate, key


def _authority_certificate(folder: Path) -> x509.Certificate:
    if not (folder / CA).exists() or not (folder / REVOKED).exists():
        raise SecurityError(f"{folder}: no site is here; create one with `coinfer ca init {folder}`")
    return x509.load_pem_x509_certificate((folder / CA).read_bytes())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    ends = _now() + datetime.timedelta(days=days)
    begins = min(_now(), ends) - _EARLY
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(begins).not_valid_after(ends)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _alternative_names(peer: Peer, hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(peer.uri),
        x509.DNSName(server_name(peer.role)),
    ]
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _own_hosts() -> list[str]:
    return ["localhost", "127.0.0.1", "::1", *([name] if (name := socket.gethostname()).isascii() else [])]


def _write_revoked(
    folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, serials: Sequence[int]
) -> None:
    """Write the list of revoked certificates. Its next update lies far ahead: a site may be without its authority."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(certificate.subject)
    builder = builder.last_update(_now()).next_update(_now() + datetime.timedelta(days=CA_DAYS))
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_now()).build()
        builder = builder.add_revoked_certificate(entry)
    write_atomic(folder / REVOKED, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read; whoever reads it finds the old or the new content, whole."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
