"""Keys and certificates as PEM files."""

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from common.errors import InputError
from common.files import writing
from deploy.provision.private_files import read_file, write_private


def write_key(path: Path, key: PrivateKeyTypes) -> None:
    """Write a private key as PKCS #8, mode 0600, without a passphrase."""
    form = serialization.PrivateFormat.PKCS8
    write_private(path, key.private_bytes(Encoding.PEM, form, serialization.NoEncryption()))


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read an elliptic-curve key.

    Raises:
        InputError: If it is missing or is something else.
    """
    try:
        key = serialization.load_pem_private_key(read_file(path), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"{path}: is no elliptic-curve key; restore it from the backup")
    return key


def read_certificate(path: Path) -> x509.Certificate:
    """Read the first certificate of a file.

    Raises:
        InputError: If it is missing or is something else.
    """
    try:
        return x509.load_pem_x509_certificate(read_file(path))
    except ValueError as error:
        raise InputError(f"{path}: is no certificate; restore it from the backup") from error


def write_certificates(path: Path, *certificates: x509.Certificate) -> None:
    """Write certificates one after the other, whole or not at all."""
    with writing(path) as file:
        file.write(as_pem(*certificates))


def as_pem(*certificates: x509.Certificate) -> bytes:
    """Return certificates as PEM, one after the other."""
    return b"".join(c.public_bytes(Encoding.PEM) for c in certificates)
