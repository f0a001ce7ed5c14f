"""How a site comes by its hub's root certificate: from the hub itself, known by its SHA-256.

Nothing is sent to the server before its certificates were compared with the invitation, and
nothing but the certificate whose hash the invitation holds is taken from it.
"""

import hashlib
import ipaddress
import ssl
import urllib.request
from base64 import b64encode
from http.client import HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from cryptography import x509
from cryptography.x509.oid import NameOID

from common.errors import InputError, RefusedError, RunError
from deploy.provision.tokens import split_address

TIMEOUT_S = 20.0
HTTP_PORT = 80
LONGEST_ISSUER = 60


def fetch_root(address: str, fingerprint: str, *, timeout_s: float = TIMEOUT_S) -> bytes:
    """Return the root certificate that the hub at ``address`` presents, as PEM.

    Goes through the proxy that ``https_proxy`` (or ``HTTPS_PROXY``) names, unless ``no_proxy``
    excepts the host; never to a loopback address.

    Args:
        address: ``host:port`` of the invitation.
        fingerprint: Of the invitation: SHA-256 of the root certificate, hexadecimal.
        timeout_s: For each step of connecting.

    Raises:
        InputError: If the address or the proxy's is none.
        RefusedError: If no certificate that the server presents is the invitation's.
        RunError: If it cannot be reached.
    """
    host, port = split_address(address)
    connection = _connection(host, port, timeout_s)
    try:
        connection.connect()
        chain = _unverified_chain(connection.sock)
    except (OSError, HTTPException) as error:
        raise RunError(
            f"{address}: cannot be reached over TLS{_by_proxy(host)}: {error}; check the "
            "address, the firewall and the proxy settings"
        ) from error
    finally:
        connection.close()
    for der in chain:
        if hashlib.sha256(der).hexdigest() == fingerprint.lower():
            return ssl.DER_cert_to_PEM_cert(der).encode("ascii")
    raise RefusedError(
        f"{address}: is not the hub that the invitation names; its certificate is issued by "
        f"{_issuer(chain)!r}; either the address leads elsewhere, or something between opens "
        "the encrypted connection and must except this address"
    )


def proxy_for(host: str) -> SplitResult | None:
    """Return the proxy that leads to ``host``, or None where it is reached directly.

    Raises:
        InputError: If the environment names a proxy that cannot be used.
    """
    proxy = urllib.request.getproxies().get("https")
    if not proxy or _is_loopback(host) or _is_excepted(host):
        return None
    parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    try:
        usable = parts.scheme == "http" and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InputError("https_proxy: must be http://host:port; a proxy over TLS is not known")
    return parts


def _connection(host: str, port: int, timeout_s: float) -> HTTPSConnection:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the certificates are compared with the invitation
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    proxy = proxy_for(host)
    if proxy is None:
        return HTTPSConnection(host, port, timeout=timeout_s, context=context)
    connection = HTTPSConnection(
        str(proxy.hostname), proxy.port or HTTP_PORT, timeout=timeout_s, context=context
    )
    connection.set_tunnel(host, port, headers=_credentials(proxy))
    return connection


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(user.encode()).decode('ascii')}"}


def _unverified_chain(sock: Any) -> list[bytes]:
    if hasattr(sock, "get_unverified_chain"):  # from Python 3.13
        return list(sock.get_unverified_chain())
    import _ssl

    chain = sock._sslobj.get_unverified_chain() or []  # noqa: SLF001 # no public way before 3.13
    return [certificate.public_bytes(_ssl.ENCODING_DER) for certificate in chain]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _is_excepted(host: str) -> bool:
    return bool(urllib.request.proxy_bypass(host))


def _by_proxy(host: str) -> str:
    proxy = proxy_for(host)
    return f" by the proxy {proxy.hostname}:{proxy.port or HTTP_PORT}" if proxy else ""


def _issuer(chain: list[bytes]) -> str:
    """Name who issued the server's certificate: a proxy that opens TLS gives itself away."""
    try:
        issuer = x509.load_der_x509_certificate(chain[0]).issuer
    except (IndexError, ValueError):
        return "nobody"
    names = [*issuer.get_attributes_for_oid(NameOID.COMMON_NAME), *issuer]
    text = str(names[0].value) if names else "nobody"
    return "".join(c for c in text if c.isprintable())[:LONGEST_ISSUER]
