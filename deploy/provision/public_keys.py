"""The public keys of a site, in the forms that its hub, Flower and nginx know them by."""

from base64 import b64encode

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.errors import RefusedError

_CURVES = (ec.SECP256R1, ec.SECP384R1)


def request_key(request_pem: str) -> ec.EllipticCurvePublicKey:
    """Return the key that a certificate request asks for, and nothing else of what it asks.

    Args:
        request_pem: PKCS #10.

    Raises:
        RefusedError: If it cannot be read, its sender does not hold the key, or the key is of
            another kind.
    """
    try:
        request = x509.load_pem_x509_csr(request_pem.encode())
        key = request.public_key()
        signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RefusedError(
            "certificate request: cannot be read; expected PKCS #10 as PEM; make it again"
        ) from error
    checked = _allowed(key, "certificate request")
    if not signed:
        raise RefusedError(
            "certificate request: is not signed by the key that it names; make it again"
        )
    return checked


def node_key(public_ssh: str) -> ec.EllipticCurvePublicKey:
    """Read a Flower node's public key.

    Args:
        public_ssh: As in the ``.pub`` file of ``ssh-keygen -t ecdsa``.

    Raises:
        RefusedError: If it cannot be read or is of another kind.
    """
    try:
        key = serialization.load_ssh_public_key(public_ssh.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RefusedError(
            "node key: cannot be read; expected an OpenSSH public key"
        ) from error
    return _allowed(key, "node key")


def node_header(key: ec.EllipticCurvePublicKey) -> str:
    """Return what a Flower node sends as the header ``flwr-public-key``: base64 of the PEM."""
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return b64encode(pem).decode("ascii")


def node_header_of(public_ssh: str) -> str:
    """Return the same for a key as OpenSSH writes it.

    Raises:
        RefusedError: As :func:`node_key`.
    """
    return node_header(node_key(public_ssh))


def as_der(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a public key as DER, the form that the short code takes."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _allowed(key: object, what: str) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES):
        kind = (
            key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else "of another kind"
        )
        raise RefusedError(
            f"{what}: the key is {kind}, expected an elliptic-curve key on P-256 or P-384; "
            "make the site's keys with fedseg"
        )
    return key
