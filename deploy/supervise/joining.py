"""The short code that hub and site read to each other before a site is admitted."""

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from deploy.provision.public_keys import as_der, request_key
from deploy.provision.public_keys import node_key as parse_node_key
from deploy.provision.tokens import short_code


def code_of_request(request_pem: str, node_key: str, root_pem: str) -> str:
    """Return the code of a request to be admitted.

    Args:
        request_pem: PKCS #10.
        node_key: Public key of the Flower node, OpenSSH form.
        root_pem: The hub's root certificate.

    Raises:
        InputError: If request or key cannot be admitted.
    """
    root = x509.load_pem_x509_certificate(root_pem.encode())
    fingerprint = hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest()
    return short_code(
        as_der(request_key(request_pem)), as_der(parse_node_key(node_key)), fingerprint
    )
