"""Invitations: one line that a hub's person sends to a site's.

``fedseg1.`` and then, as base64url without padding::

    16 bytes   secret
    32 bytes   SHA-256 of the hub's root certificate
     1 byte    length of the address, then the address
     the rest  the site's name
     4 bytes   beginning of a SHA-256 over all that, so that a typing error is told as one

The secret lets its bearer ask once to be admitted as that site, no more: the hub's person still
compares the short code.
"""

import binascii
import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self, final

from common.errors import InputError
from common.messages import SITE_NAME

PREFIX = "fedseg1."
SECRET_BYTES = 16
FINGERPRINT_BYTES = 32
CHECK_BYTES = 4
LONGEST_ADDRESS = 255
_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")
_CODE_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: no I, L, O, U
_CODE_LENGTH = 8
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_TYPING_ERROR = (
    "invitation: is incomplete or has a typing error; copy the whole line again, from "
    f"{PREFIX!r} to its end"
)


@final
@dataclass(frozen=True, kw_only=True)
class Invitation:
    """What a site needs to find its hub, know it, and be known by it.

    Attributes:
        address: ``host:port`` of the hub.
        site: The name that the site will have.
        fingerprint: SHA-256 of the hub's root certificate, lower-case hexadecimal.
        secret: 16 bytes; never shown but in the line itself.
    """

    address: str
    site: str
    fingerprint: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        split_address(self.address)
        if not SITE_NAME.fullmatch(self.site):
            raise InputError(f"site {self.site!r}: is no name of a site")
        if not _FINGERPRINT.fullmatch(self.fingerprint):
            raise InputError("fingerprint: must be 64 lower-case hexadecimal digits")
        if len(self.secret) != SECRET_BYTES:
            raise InputError(f"secret: must be of {SECRET_BYTES} bytes")

    @classmethod
    def new(
        cls,
        address: str,
        site: str,
        *,
        fingerprint: str,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> Self:
        """Invite a site with a fresh secret.

        Raises:
            InputError: If the address or the name is none.
        """
        secret = random(SECRET_BYTES)
        return cls(address=address, site=site, fingerprint=fingerprint, secret=secret)

    def encode(self) -> str:
        """Return the line to send."""
        address = self.address.encode("ascii")
        content = self.secret + bytes.fromhex(self.fingerprint)
        content += bytes([len(address)]) + address + self.site.encode("ascii")
        return PREFIX + urlsafe_b64encode(content + _check(content)).decode().rstrip("=")

    @classmethod
    def decode(cls, line: str) -> Self:
        """Read a line that a person pasted; white space and line breaks do not matter.

        Raises:
            InputError: If it is no invitation, or not the one that was sent.
        """
        text = "".join(line.split())
        if not text.startswith(PREFIX):
            raise InputError(
                f"invitation: must begin with {PREFIX!r}; copy the whole line, and see that "
                "hub and site have the same version of fedseg"
            )
        content = _checked(text.removeprefix(PREFIX))
        start = SECRET_BYTES + FINGERPRINT_BYTES + 1
        end = start + content[start - 1]
        return cls(
            address=content[start:end].decode("ascii", "replace"),  # then refused as an address
            site=content[end:].decode("ascii", "replace"),
            fingerprint=content[SECRET_BYTES : start - 1].hex(),
            secret=content[:SECRET_BYTES],
        )


def split_address(address: str) -> tuple[str, int]:
    """Return host (an IPv6 address without its brackets) and port of ``host:port``.

    Raises:
        InputError: If it is none.
    """
    found = _ADDRESS.fullmatch(address)
    if not found or len(address) > LONGEST_ADDRESS or not 0 < int(found["port"]) < 1 << 16:
        raise InputError(f"address {address!r}: must be host:port, as in hub.example.org:443")
    return found["host"].strip("[]"), int(found["port"])


def secret_hash(secret: bytes, site: str) -> str:
    """Return what the hub keeps of an invitation's secret, hexadecimal.

    A plain hash, because 128 random bits cannot be guessed; bound to the site, so that a secret
    admits nobody else.
    """
    return hashlib.sha256(b"fedseg invitation 1:" + secret + site.encode()).hexdigest()


def matches(secret: bytes, site: str, stored: str) -> bool:
    """Say whether a secret is the one of a site's invitation, in constant time.

    Args:
        secret: What the site sent, of any length.
        site: What it says it is.
        stored: From :func:`secret_hash`.
    """
    given = secret_hash(secret, site).encode()
    return len(secret) == SECRET_BYTES and hmac.compare_digest(given, stored.encode())


def short_code(request_key_der: bytes, node_key_der: bytes, fingerprint: str) -> str:
    """Return what hub and site read to each other over the telephone, ``ABCD-EFGH``.

    It is the same on both sides only if the hub received the keys that the site has, and the
    site the root that the hub has.

    Args:
        request_key_der: Public key of the site's certificate request.
        node_key_der: Public key of its Flower node.
        fingerprint: SHA-256 of the hub's root certificate, hexadecimal.

    Returns:
        40 bits of a SHA-256 in Crockford's base32.
    """
    digest = hashlib.sha256(b"fedseg short code 1")
    for part in (request_key_der, node_key_der, fingerprint.lower().encode("ascii")):
        digest.update(len(part).to_bytes(4, "big") + part)
    bits = int.from_bytes(digest.digest()[: _CODE_LENGTH * 5 // 8], "big")
    letters = [_CODE_LETTERS[bits >> 5 * i & 31] for i in reversed(range(_CODE_LENGTH))]
    return "".join(letters[:4]) + "-" + "".join(letters[4:])


def _check(content: bytes) -> bytes:
    return hashlib.sha256(PREFIX.encode() + content).digest()[:CHECK_BYTES]


def _checked(text: str) -> bytes:
    """Return the content of a line's second part, its check taken off."""
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        data = b""
    # Python's decoder skips foreign letters and spare bits; so the way back must agree.
    same = hmac.compare_digest(urlsafe_b64encode(data).rstrip(b"="), text.encode())
    content, check = data[:-CHECK_BYTES], data[-CHECK_BYTES:]
    shortest = SECRET_BYTES + FINGERPRINT_BYTES + 1
    if not same or len(content) < shortest or not hmac.compare_digest(_check(content), check):
        raise InputError(_TYPING_ERROR)
    return content
