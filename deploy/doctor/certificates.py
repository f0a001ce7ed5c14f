"""Certificates and revocation lists: who issued them, and how long they are good."""

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from deploy.doctor.finding import Finding, broken, fine, odd

LIST_WARN = timedelta(days=8)  # the registrar renews ten days before the end


def chain(
    what: str, certificates: Sequence[x509.Certificate], root: x509.Certificate
) -> Finding:
    """Say whether each certificate was issued by the next, and the last by the root."""
    issued = [certificate for certificate in certificates if certificate != root]
    try:
        for one, issuer in zip(issued, [*issued[1:], root], strict=True):
            one.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return broken(
            what, "was not issued by the hub's root", "restore the folder from its backup"
        )
    return fine(what, "issued by the hub's root")


def lifetime(
    what: str, certificate: x509.Certificate, now: datetime, *, warn_days: int, do: str
) -> Finding:
    """Say how long a certificate is good.

    Args:
        what: Which.
        certificate: Which.
        now: The clock.
        warn_days: From how many days before its end to warn.
        do: What to do about it.
    """
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin:
        return broken(
            what, f"valid only from {begin:%Y-%m-%d %H:%M} UTC", "set this machine's clock"
        )
    if now >= end:
        return broken(what, f"expired on {end:%Y-%m-%d}", do)
    words = f"until {end:%Y-%m-%d}, {(end - now).days} days"
    return odd(what, words, do) if end - now < timedelta(days=warn_days) else fine(what, words)


def names(certificate: x509.Certificate, host: str) -> Finding:
    """Say whether the hub's certificate is for the name under which sites reach it."""
    what = "hub's name"
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    plain = host.strip("[]")
    try:
        is_there = ipaddress.ip_address(plain) in found.get_values_for_type(x509.IPAddress)
    except ValueError:
        held = [name.lower() for name in found.get_values_for_type(x509.DNSName)]
        is_there = plain.lower() in held
    if is_there:
        return fine(what, f"{plain} is in its certificate")
    return broken(
        what,
        f"hub.json says {plain}, its certificate does not",
        "set address in hub.json back, or make the hub anew under the new name",
    )


def revocation_list(end: datetime, now: datetime) -> Finding:
    """Say how long the revocation lists are good; nginx refuses everybody afterwards."""
    what = "revocation list"
    if now >= end:
        return broken(
            what,
            f"expired on {end:%Y-%m-%d}: every site is refused",
            "start the registrar; it writes a new one. If the root's own list expired, put "
            "the folder pki/root back first",
        )
    words = f"until {end:%Y-%m-%d}, {(end - now).days} days"
    if end - now < LIST_WARN:
        return odd(what, words, "the registrar renews it; look into log/registrar.jsonl")
    return fine(what, words)


def root_key(*, is_here: bool) -> Finding:
    """Say whether the root's key lies where a stranger to this machine cannot get it."""
    if is_here:
        return odd(
            "root key",
            "is on this machine",
            "move the folder pki/root to a place without a network; it is needed once a year",
        )
    return fine("root key", "is not on this machine")
