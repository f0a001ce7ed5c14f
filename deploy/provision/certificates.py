"""How fedseg's certificates and revocation lists look. Pure: keys and a clock in, signed out.

::

    root (P-384, 10 years, at most one authority below)
    ├── hub (P-384, 5 years, servers only)
    │   ├── the hub's public server (P-256, 1 year)
    │   └── the SuperLink on loopback (P-256, 1 year)
    └── sites (P-384, 5 years, clients only)
        └── one certificate a site (the site's own key, 90 days)

Profile: RFC 5280. The extended key usage of the two intermediates narrows what they may issue,
which section 4.2.1.12 does not define for authorities but OpenSSL and BoringSSL both enforce.
"""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import InputError, RunError

BACKDATED = timedelta(minutes=10)  # a site's clock may be behind the hub's
YEAR = timedelta(days=365)
ORGANISATION = "fedseg"
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
# the last part is no number: that is an address with a typing error
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$)(?!.*(^|\.)[0-9]+$){_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A certificate together with the key that signs in its name."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def build_root(key: ec.EllipticCurvePrivateKey, *, now: datetime) -> x509.Certificate:
    """Return the self-signed root certificate, valid for 10 years."""
    name = _name("fedseg root")
    builder = _builder(name, key.public_key(), issuer=name, now=now, until=now + 10 * YEAR)
    return _as_authority(builder, path_length=1).sign(key, hashes.SHA384())


def build_intermediate(
    public_key: ec.EllipticCurvePublicKey,
    name: str,
    purpose: x509.ObjectIdentifier,
    *,
    root: Authority,
    now: datetime,
) -> x509.Certificate:
    """Return the certificate of an authority that issues for one purpose, for 5 years.

    Raises:
        RunError: If the root has expired.
    """
    builder = _issued(_name(f"fedseg {name}"), public_key, issuer=root, now=now, valid=5 * YEAR)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return _as_authority(builder, path_length=0).sign(root.key, hashes.SHA384())


def build_server(
    public_key: ec.EllipticCurvePublicKey,
    names: Sequence[x509.GeneralName],
    *,
    issuer: Authority,
    now: datetime,
) -> x509.Certificate:
    """Return a server's certificate for ``names``, valid for 1 year.

    Raises:
        RunError: If the issuer has expired.
    """
    builder = _issued(_name("hub"), public_key, issuer=issuer, now=now, valid=YEAR)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _as_leaf(builder, SERVER).sign(issuer.key, hashes.SHA384())


def build_site(
    public_key: ec.EllipticCurvePublicKey,
    site: str,
    *,
    issuer: Authority,
    now: datetime,
    days: int,
) -> x509.Certificate:
    """Return a site's certificate, ``O=fedseg, CN=<site>``, for clients only.

    Raises:
        RunError: If the issuer has expired.
    """
    valid = timedelta(days=days)
    builder = _issued(_name(site), public_key, issuer=issuer, now=now, valid=valid)
    return _as_leaf(builder, CLIENT).sign(issuer.key, hashes.SHA384())


def build_revocations(
    revoked: Mapping[int, datetime],
    *,
    issuer: Authority,
    number: int,
    now: datetime,
    valid: timedelta,
) -> x509.CertificateRevocationList:
    """Return an authority's revocation list.

    Args:
        revoked: When each serial number was revoked.
        issuer: Whose certificates they are.
        number: Must grow with every list of this issuer.
        now: The clock.
        valid: After ``now``; a list that is older than this closes the hub.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(_seconds(now - BACKDATED))
        .next_update(_seconds(now + valid))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_issuer_key(issuer.certificate), critical=False)
    )
    for serial, when in sorted(revoked.items()):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer.key, hashes.SHA384())


def alternative_names(hub_names: Sequence[str]) -> list[x509.GeneralName]:
    """Return what a server's certificate is valid for: ``hub_names``, and loopback.

    Raises:
        InputError: If one is neither a host name nor an address.
    """
    unique = dict.fromkeys([*hub_names, "localhost", "127.0.0.1"])
    return [_alternative_name(name) for name in unique]


def serial_hex(serial: int) -> str:
    """Write a serial number as OpenSSL and nginx do: whole bytes, upper case."""
    text = f"{serial:X}"
    return text.zfill(len(text) + len(text) % 2)


def common_name(certificate: x509.Certificate) -> str:
    """Return the name of the site that a certificate was issued to; empty if there is none."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else ""


def _alternative_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not _HOST_NAME.fullmatch(name):
        raise InputError(
            f"hub name {name!r}: is neither a host name nor an IP address; give it without a "
            "scheme, a port or a wildcard"
        )
    return x509.DNSName(name)


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _issued(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    *,
    issuer: Authority,
    now: datetime,
    valid: timedelta,
) -> x509.CertificateBuilder:
    """Begin a certificate that does not outlive its issuer."""
    last = issuer.certificate.not_valid_after_utc
    if now >= last:
        raise RunError(
            f"the authority {common_name(issuer.certificate)!r} expired on {last:%Y-%m-%d}; "
            "renew it"
        )
    builder = _builder(
        subject,
        public_key,
        issuer=issuer.certificate.subject,
        now=now,
        until=min(now + valid, last),
    )
    return builder.add_extension(_issuer_key(issuer.certificate), critical=False)


def _builder(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    *,
    issuer: x509.Name,
    now: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_seconds(now - BACKDATED))
        .not_valid_after(_seconds(until))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _as_authority(
    builder: x509.CertificateBuilder, *, path_length: int
) -> x509.CertificateBuilder:
    constraints = x509.BasicConstraints(ca=True, path_length=path_length)
    return builder.add_extension(constraints, critical=True).add_extension(
        _usage(authority=True), critical=True
    )


def _as_leaf(
    builder: x509.CertificateBuilder, purpose: x509.ObjectIdentifier
) -> x509.CertificateBuilder:
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _issuer_key(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    # By key alone, so that an authority renewed with the same key goes on being the issuer.
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
        certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    )


def _seconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)
