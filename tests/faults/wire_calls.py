"""Calls to a hub's public port as anybody could make them: any certificate, path and address."""

import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPSConnection
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from common.wire import control_pb2 as pb
from deploy.provision.authority import SITES, Authorities
from deploy.provision.certificates import Authority, alternative_names, build_server
from deploy.provision.pem_files import (
    as_pem,
    read_certificate,
    read_key,
    write_certificates,
    write_key,
)
from deploy.provision.site_keys import SiteKeys

CONTROL, ENROLMENT = "/fedseg.v1.Control/", "/fedseg.v1.Enrolment/"
PULL = "/v1/fleet/pull-messages"
DAY = timedelta(days=1)


class Connection(HTTPSConnection):
    """Sends every path as it is given."""

    def _validate_path(self, url):
        pass


@dataclass
class Caller:
    """Somebody with or without a certificate, at an address of his own.

    Attributes:
        root: Certificate that vouches for the hub.
        port: The hub's public one.
        pair: Files of certificate and key, or None.
        address: Of the caller, within 127.0.0.0/8.
        node: Header of a Flower node's key, or nothing.
    """

    root: Path
    port: int
    pair: tuple[Path, Path] | None = None
    address: str = "127.0.3.1"
    node: str = ""

    def context(self):
        context = ssl.create_default_context(cafile=self.root)
        if self.pair:
            context.load_cert_chain(*self.pair)
        return context

    def connect(self, seconds=20):
        return Connection(
            "localhost",
            self.port,
            timeout=seconds,
            context=self.context(),
            source_address=(self.address, 0),
        )

    def post(self, path, body=b"", headers=()):
        """Return status and body of one call over HTTP/1.1."""
        connection = self.connect()
        try:
            return send(connection, path, body, headers)
        finally:
            connection.close()

    def call(self, path, request=None, connection=None):
        """Return HTTP status, gRPC status and the reply's bytes of one gRPC call."""
        content = b"" if request is None else request.SerializeToString()
        frame = b"\0" + len(content).to_bytes(4, "big") + content
        headers = (("Content-Type", "application/grpc"), ("TE", "trailers"))
        held = connection or self.connect()
        try:
            held.putrequest("POST", path)
            for key, value in (("Content-Length", str(len(frame))), *headers):
                held.putheader(key, value)
            held.endheaders(frame)
            response = held.getresponse()
            body = response.read()
            return response.status, response.getheader("grpc-status"), body[5:]
        finally:
            if connection is None:
                held.close()

    def join(self, request):
        """Return what the hub answers to a request to be admitted, in words."""
        status, code, body = self.call(f"{ENROLMENT}Join", request)
        if status != 200 or (code and code != "0"):
            return f"HTTP {status}, gRPC {code}"
        reply = pb.JoinReply.FromString(body)
        return f"{reply.state}: {reply.sentence}"

    def report(self, connection=None, **changes):
        """Return the hub's answer to a report, or the status that it ends with."""
        request = pb.ReportRequest(version="0.1.0", ready=True, **changes)
        status, code, body = self.call(f"{CONTROL}Report", request, connection)
        if status != 200 or (code and code != "0"):
            return f"HTTP {status}, gRPC {code}"
        return pb.ReportReply.FromString(body)

    def channel(self):
        """Open a real gRPC channel, over HTTP/2."""
        chain, key = (p.read_bytes() for p in self.pair) if self.pair else (None, None)
        credentials = grpc.ssl_channel_credentials(self.root.read_bytes(), key, chain)
        return grpc.secure_channel(
            f"localhost:{self.port}", credentials, options=[("grpc.enable_http_proxy", 0)]
        )

    def http2(self, path):
        """Return the gRPC status of a call of any path over HTTP/2."""
        with self.channel() as channel:
            try:
                channel.unary_unary(path)(b"", timeout=10)
            except grpc.RpcError as error:
                return error.code().name
        return "OK"


def send(connection, path, body=b"", headers=()):
    connection.putrequest("POST", path)
    for key, value in (("Content-Length", str(len(body))), *headers):
        connection.putheader(key, value)
    connection.endheaders(body)
    response = connection.getresponse()
    return response.status, response.read()


def handshake(caller, context, look):
    with (
        socket.create_connection(("127.0.0.1", caller.port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        return look(secured)


# --- certificates that must not do ------------------------------------------------------------


def _issued(folder, pki, site, **options):
    keys = SiteKeys.create(folder / site)
    issued = pki.issue_site(keys.csr(site), site, **({"now": datetime.now(UTC)} | options))
    keys.certificate.write_text(issued.pem)
    return keys.certificate, keys.tls_key


def bad_pairs(folder, pki_folder, like):
    """Make pairs of certificate and key that a hub must refuse, by name.

    Args:
        folder: For them.
        pki_folder: Of the hub.
        like: A site's own certificate.
    """
    folder.mkdir()
    now, pki = datetime.now(UTC), Authorities.open(pki_folder)
    files = pki.files
    other = Authorities.create(folder / "other", ["localhost"], now)
    (folder / "twins").mkdir()
    issuer = Authority(
        certificate=read_certificate(files.certificate(SITES)), key=read_key(files.key(SITES))
    )
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = build_server(key.public_key(), alternative_names([]), issuer=issuer, now=now)
    write_certificates(folder / "wrong.pem", leaf, issuer.certificate)
    write_key(folder / "wrong.key", key)
    return {
        "none": None,
        "other-authority": _issued(folder / "twins", other, "ct-1"),
        "self-signed": _self_signed(folder, like),
        "expired": _issued(folder, pki, "expired", now=now - 10 * DAY, days=9),
        "not-yet-valid": _issued(folder, pki, "early", now=now + DAY),
        "wrong-purpose": (folder / "wrong.pem", folder / "wrong.key"),
        "hubs-own": (files.hub_chain, files.server_key),
        "never-admitted": _issued(folder, pki, "stranger"),
    }


def _self_signed(folder, like):
    key, model = ec.generate_private_key(ec.SECP256R1()), read_certificate(like)
    builder = (
        x509.CertificateBuilder()
        .subject_name(model.subject)
        .issuer_name(model.subject)
        .public_key(key.public_key())
        .serial_number(model.serial_number)
        .not_valid_before(model.not_valid_before_utc)
        .not_valid_after(model.not_valid_after_utc)
    )
    for extension in model.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    path = folder / "self.pem"
    path.write_bytes(as_pem(builder.sign(key, hashes.SHA256())))
    write_key(folder / "self.key", key)
    path.chmod(0o600)
    return path, folder / "self.key"
