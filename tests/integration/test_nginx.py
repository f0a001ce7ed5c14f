"""A real nginx with the hub's configuration, in front of a stand-in for each of its two backends.

Each site calls from an address of its own within 127.0.0.0/8, so that one test's calls do not
count against the limits of another.
"""

import json
import os
import socket
import ssl
import subprocess
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.provision.authority import SITES, Authorities
from deploy.provision.certificates import Authority, alternative_names, build_server
from deploy.provision.nginx import (
    NginxSettings,
    command,
    reload,
    write_bindings,
    write_configuration,
)
from deploy.provision.pem_files import (
    as_pem,
    read_certificate,
    read_key,
    write_certificates,
    write_key,
)
from deploy.provision.site_keys import SiteKeys, client_context
from tests.support.deployment import NEEDS_NGINX

pytestmark = NEEDS_NGINX

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
JOIN = "/fedseg.v1.Enrolment/Join"
STUDIES = "/fedseg.v1.Control/Studies"
FETCH = "/fedseg.v1.Control/Fetch"
PULL = "/v1/fleet/pull-messages"


# --- the two backends --------------------------------------------------------------------


class SuperLink(BaseHTTPRequestHandler):
    """Answers with what reached it, and remembers the path."""

    protocol_version = "HTTP/1.1"
    seen: tuple[str, ...] = ()

    def do_POST(self):
        SuperLink.seen += (self.path,)
        size = len(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        keys = self.headers.get_all("flwr-public-key")
        body = json.dumps({"path": self.path, "size": size, "keys": keys}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


def superlink(pki):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.files.superlink_chain, pki.files.superlink_key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), SuperLink)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def control(path):
    """Serve both services; each call answers with the metadata that reached it."""

    def metadata(_request, context):
        pairs = [(k, v) for k, v in context.invocation_metadata() if k.startswith("x-client")]
        return json.dumps(pairs).encode()

    def chunks(_request, context):
        while context.is_active():
            yield b"chunk"
            time.sleep(0.1)

    server = grpc.server(ThreadPoolExecutor(4))
    for call, answer in (
        (JOIN, grpc.unary_unary_rpc_method_handler(metadata)),
        (STUDIES, grpc.unary_unary_rpc_method_handler(metadata)),
        (FETCH, grpc.unary_stream_rpc_method_handler(chunks)),
    ):
        service, method = call.removeprefix("/").split("/")
        handler = grpc.method_handlers_generic_handler(service, {method: answer})
        server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    return server


# --- callers -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Caller:
    """Somebody with or without a certificate.

    Attributes:
        pair: Files of certificate and key, or None.
        serial: Of the certificate.
        header: Of the Flower node key.
    """

    pair: tuple[Path, Path] | None
    serial: str = ""
    header: str = ""


class Connection(HTTPSConnection):
    """Sends every path as it is given."""

    def _validate_path(self, url):
        pass


@dataclass
class Hub:
    settings: NginxSettings
    pki: Authorities
    callers: dict[str, Caller]
    last_address: int = 1

    @property
    def port(self):
        return self.settings.port

    def context(self, name):
        if (pair := self.callers[name].pair) is not None:
            return client_context(self.pki.files.root, *pair)
        return ssl.create_default_context(cafile=self.pki.files.root)

    def connect(self, name):
        self.last_address += 1
        return Connection(
            "127.0.0.1",
            self.port,
            timeout=10,
            context=self.context(name),
            source_address=(f"127.0.1.{self.last_address}", 0),
        )

    def post(self, name, path, headers=(), body=b""):
        """Return status and body of one call over HTTP/1.1, the path as it is given."""
        connection = self.connect(name)
        try:
            return exchange(connection, path, headers, body)
        finally:
            connection.close()

    def channel(self, name):
        root, pair = self.pki.files.root.read_bytes(), self.callers[name].pair
        chain, key = (path.read_bytes() for path in pair) if pair else (None, None)
        return grpc.secure_channel(
            f"localhost:{self.port}",
            grpc.ssl_channel_credentials(root, key, chain),
            options=[("grpc.enable_http_proxy", 0)],
        )

    def call(self, name, method=STUDIES, metadata=(), request=b""):
        """Return what one gRPC call tells of its metadata, or the status that it fails with."""
        with self.channel(name) as channel:
            return rpc(channel, method, metadata, request)


def exchange(connection, path, headers=(), body=b""):
    connection.putrequest("POST", path)
    for key, value in (("Content-Length", str(len(body))), *headers):
        connection.putheader(key, value)
    connection.endheaders(body)
    response = connection.getresponse()
    return response.status, response.read()


def rpc(channel, method=STUDIES, metadata=(), request=b""):
    try:
        answer = channel.unary_unary(method)(request, metadata=metadata, timeout=10)
    except grpc.RpcError as error:
        return error.code()
    return [tuple(pair) for pair in json.loads(answer)]


def admitted(folder, pki, site, **options):
    keys = SiteKeys.create(folder / site)
    issued = pki.issue_site(keys.csr(site), site, **({"now": NOW} | options))
    keys.certificate.write_text(issued.pem)
    return Caller((keys.certificate, keys.tls_key), issued.serial, keys.node_header())


def of_wrong_purpose(folder, pki):
    key = ec.generate_private_key(ec.SECP256R1())
    files = pki.files
    issuer = Authority(
        certificate=read_certificate(files.certificate(SITES)), key=read_key(files.key(SITES))
    )
    leaf = build_server(key.public_key(), alternative_names([]), issuer=issuer, now=NOW)
    write_certificates(folder / "wrong.pem", leaf, issuer.certificate)
    write_key(folder / "wrong.key", key)
    return Caller((folder / "wrong.pem", folder / "wrong.key"))


def self_signed(folder, model):
    """Copy a site's certificate in all but its issuer and key."""
    key, like = ec.generate_private_key(ec.SECP256R1()), read_certificate(model.pair[0])
    builder = (
        x509.CertificateBuilder()
        .subject_name(like.subject)
        .issuer_name(like.subject)
        .public_key(key.public_key())
        .serial_number(like.serial_number)
        .not_valid_before(like.not_valid_before_utc)
        .not_valid_after(like.not_valid_after_utc)
    )
    for extension in like.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    (folder / "self.pem").write_bytes(as_pem(builder.sign(key, hashes.SHA256())))
    write_key(folder / "self.key", key)
    return Caller((folder / "self.pem", folder / "self.key"))


def all_callers(folder, pki):
    other = Authorities.create(folder / "other", [], NOW)
    (folder / "twins").mkdir()
    good = {name: admitted(folder, pki, name) for name in GOOD}
    bad = {
        "nobody": Caller(None),
        "of another hub": admitted(folder / "twins", other, "site-a"),
        "self-signed": self_signed(folder, good["site-a"]),
        "expired": admitted(folder, pki, "expired", now=NOW - 10 * DAY, days=9),
        "not yet valid": admitted(folder, pki, "early", now=NOW + DAY),
        "of wrong purpose": of_wrong_purpose(folder, pki),
        "the hub's own": Caller((pki.files.hub_chain, pki.files.server_key)),
        "revoked": admitted(folder, pki, "revoked"),
    }
    pki.revoke(bad["revoked"].serial, NOW)
    return good | bad


GOOD = ["site-a", "site-b", "site-c", "site-d", "busy"]
BAD = ["nobody", "of another hub", "self-signed", "expired", "not yet valid"]
BAD += ["of wrong purpose", "the hub's own", "revoked"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    pki = Authorities.create(folder / "pki", ["localhost"], NOW)
    callers = all_callers(folder, pki)
    backend, services = superlink(pki), control(folder / "control.sock")
    settings = NginxSettings(
        folder=folder / "nginx",
        pki=folder / "pki",
        host="127.0.0.1",
        port=free_port(),
        superlink_port=backend.server_port,
        control_socket=folder / "control.sock",
        user="root" if os.geteuid() == 0 else None,
    )
    bound = [(name, callers[name].header) for name in GOOD]
    with running(settings, bound):
        yield Hub(settings, pki, callers)
    services.stop(None)
    backend.shutdown()
    backend.server_close()


@contextmanager
def running(settings, bound):
    write_configuration(settings)
    write_bindings(settings.folder, bound)
    process = subprocess.Popen(command(settings.folder), stderr=subprocess.DEVNULL)
    try:
        wait_for(settings.port)
        yield
    finally:
        process.terminate()
        process.wait(10)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as held:
        return held.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(port)


# --- who may call ------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD)
def test_who_has_no_valid_certificate_is_refused_everywhere(hub, name):
    before = SuperLink.seen
    node = [("flwr-public-key", hub.callers["site-a"].header)]

    for path in ("/", STUDIES, PULL, "/v1/control/list-runs", "/docs", "/health", "/x", "/."):
        status, _body = hub.post(name, path, node)
        assert (path, status) == (path, 401)

    assert hub.call(name) is grpc.StatusCode.UNAUTHENTICATED
    assert SuperLink.seen == before


@pytest.mark.parametrize("name", BAD)
def test_only_who_shows_no_certificate_at_all_or_a_valid_one_may_ask_to_join(hub, name):
    expected = [] if name == "nobody" else grpc.StatusCode.UNAUTHENTICATED

    assert hub.call(name, JOIN) == expected
    assert hub.call("site-a", JOIN) == []


@pytest.mark.parametrize(
    "path",
    [
        f"{JOIN}/",
        f"{JOIN}?x=1",
        f"/{JOIN}",
        "/fedseg.v1.Enrolment//Join",
        "/fedseg.v1.Enrolment/./Join",
        "/fedseg.v1.Enrolment/%4aoin",
        "/fedseg.v1.enrolment/join",
        f"{JOIN}/../../fedseg.v1.Control/Studies",
        f"{JOIN}%2f..%2f..%2ffedseg.v1.Control%2fStudies",
        f"{STUDIES}#{JOIN}",
        f"{STUDIES}?{JOIN}",
        f"/ {JOIN}",
        "/fedseg.v1.Enrolment/Leave",
    ],
)
def test_no_other_spelling_is_open_to_strangers(hub, path):
    status, _body = hub.post("nobody", path)

    assert status in {400, 401}
    assert hub.call("nobody", path) in {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.INTERNAL,
    }


def test_the_old_versions_of_tls_are_refused_and_the_new_are_not(hub):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = hub.context("nobody")
        context.minimum_version = context.maximum_version = version
        assert handshake(hub, context, ssl.SSLSocket.version) == version.name.replace("_", ".")

    context = hub.context("nobody")
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
        handshake(hub, context, ssl.SSLSocket.version)


def handshake(hub, context, look, **options):
    with (
        socket.create_connection(("127.0.0.1", hub.port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost", **options) as secured,
    ):
        return look(secured)


def test_no_session_is_resumed_because_lists_are_looked_at_in_full_handshakes_only(hub):
    context = hub.context("site-a")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    first = handshake(hub, context, lambda secured: secured.session)

    assert not handshake(hub, context, lambda secured: secured.session_reused, session=first)


# --- who is who --------------------------------------------------------------------------


def identity(site, serial):
    return {
        ("x-client-dn", f"CN={site},O=fedseg"),
        ("x-client-serial", serial),
        ("x-client-cn", site),
    }


def test_the_hub_learns_from_the_certificate_who_calls(hub):
    for site in ("site-a", "site-b"):
        found = hub.call(site)

        assert len(found) == 3
        assert set(found) == identity(site, hub.callers[site].serial)


FORGED = [
    ("x-client-cn", "site-b"),
    ("x-client-cn", "site-b"),
    ("x-client-dn", "CN=site-b,O=fedseg"),
    ("x-client-serial", "01"),
]


def test_nobody_can_say_that_he_is_another(hub):
    found = hub.call("site-a", metadata=FORGED)

    assert len(found) == 3
    assert set(found) == identity("site-a", hub.callers["site-a"].serial)


@pytest.mark.parametrize("name", ["nobody", "site-a"])
def test_who_asks_to_join_brings_no_name_along(hub, name):
    assert hub.call(name, JOIN, metadata=FORGED) == []


def node(hub, *sites):
    return [("flwr-public-key", hub.callers[site].header) for site in sites]


def test_a_node_is_passed_on_with_the_certificate_of_its_site(hub):
    for site in ("site-a", "site-b"):
        status, body = hub.post(site, PULL, node(hub, site), b"question")

        assert status == 200
        assert json.loads(body) == {
            "path": PULL,
            "size": 8,
            "keys": [hub.callers[site].header],
        }


@pytest.mark.parametrize(
    "headers",
    [
        lambda hub: node(hub, "site-b"),
        lambda hub: node(hub, "site-b", "site-a"),
        lambda hub: [],
        lambda hub: [("flwr-public-key", "")],
        lambda hub: [("flwr-public-key", hub.callers["site-a"].header.swapcase())],
        lambda hub: [("flwr-public-key", hub.callers["site-a"].header + "=")],
        lambda hub: [("flwr_public_key", hub.callers["site-a"].header)],
        lambda hub: [("flwr-public-key", ".*")],
    ],
    ids=["other", "other first", "none", "empty", "case", "longer", "underscore", "pattern"],
)
def test_a_node_key_that_is_not_the_sites_is_refused(hub, headers):
    before = SuperLink.seen

    status, _body = hub.post("site-a", PULL, headers(hub))

    assert status == 401
    assert SuperLink.seen == before


def test_of_two_node_keys_only_the_one_that_was_looked_at_is_passed_on(hub):
    status, body = hub.post("site-a", PULL, node(hub, "site-a", "site-b"))

    assert status in {200, 401}  # nginx from 1.23 on joins the two, and refuses
    if status == 200:
        assert json.loads(body)["keys"] == [hub.callers["site-a"].header]


# --- where ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/openapi.json",
        "/health",
        "/v1/control",
        "/v1/control/list-runs",
        "/v1/runtime/acquire-task",
        "/V1/FLEET/pull-messages",
        "/v1/fleet",
        "/fedseg.v1.Enrolment/Leave",
        "/fedseg.v1.Control",
        "/fedseg.v1.Controls/Studies",
        "//v1/control/list-runs",
        "/v1/fleet//pull-messages",
        "//v1/fleet/pull-messages",
        "/v1/fleet/../control/list-runs",
        "/v1/control/../fleet/pull-messages",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/..%2fcontrol/list-runs",
        "/v1/fleet/%2e%2e%2fcontrol%2flist-runs",
        "/v1/fleet/..;/control/list-runs",
        "/v1/fleet/.",
        "/v1/fleet/..",
        "/v1/fleet/pull-messages%00",
        "/v1/fleet/pull-messages?a=/v1/control",
        "/v1/fleet/pull-messages/%3f",
        "/v1/fleet\\..\\control",
        "/v1/%66leet/pull-messages",
        "https://localhost/v1/control/list-runs",
        "*",
    ],
)
def test_a_site_reaches_nothing_but_its_own_calls(hub, path):
    before = SuperLink.seen

    status, _body = hub.post("site-a", path, node(hub, "site-a"))

    assert status in {301, 400, 403, 404}
    assert SuperLink.seen == before
    if "fleet/" in path.lower().removeprefix("/v1/control/.."):
        assert status != 403 or path.startswith("/V1")


def test_an_impostor_on_the_superlinks_port_is_told_nothing(hub, tmp_path):
    impostor = superlink(Authorities.create(tmp_path / "pki", [], NOW))
    changes = {"port": free_port(), "superlink_port": impostor.server_port}
    settings = replace(hub.settings, folder=tmp_path / "nginx", **changes)
    before = SuperLink.seen

    with running(settings, [("site-a", hub.callers["site-a"].header)]):
        there = replace(hub, settings=settings)
        status, _body = there.post("site-a", PULL, node(hub, "site-a"))

    assert status == 502
    assert SuperLink.seen == before
    impostor.shutdown()
    impostor.server_close()


# --- how much ----------------------------------------------------------------------------


def test_a_question_of_a_node_may_be_large_but_not_of_any_size(hub):
    status, body = hub.post("site-a", PULL, node(hub, "site-a"), bytes(8 << 20))
    assert (status, json.loads(body)["size"]) == (200, 8 << 20)

    connection = hub.connect("site-a")
    connection.putrequest("POST", PULL)
    for key, value in [("Content-Length", str(65 << 20)), *node(hub, "site-a")]:
        connection.putheader(key, value)
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_a_stranger_may_send_little(hub):
    assert hub.call("nobody", JOIN, request=bytes(60_000)) == []
    assert isinstance(hub.call("nobody", JOIN, request=bytes(100_000)), grpc.StatusCode)


def test_headers_are_bounded(hub):
    status, _body = hub.post("site-a", PULL, [("x-large", "x" * 20_000)])

    assert status == 400


def test_a_stranger_may_not_ask_without_end(hub):
    connection = hub.connect("nobody")
    empty, of_grpc = bytes(5), [("Content-Type", "application/grpc"), ("TE", "trailers")]
    statuses = [exchange(connection, JOIN, of_grpc, empty)[0] for _ in range(25)]
    connection.close()

    assert statuses.index(429) == 21  # one, and a burst of twenty
    assert set(statuses[21:]) == {429}


def test_a_site_that_calls_without_end_slows_nobody_but_itself(hub):
    with hub.channel("busy") as channel:
        answers = [rpc(channel) for _ in range(200)]

    assert answers.index(grpc.StatusCode.UNAVAILABLE) > 100  # gRPC's word for 429
    assert len(hub.call("site-a")) == 3


# --- ends --------------------------------------------------------------------------------


def test_a_revoked_site_is_shut_out_within_two_seconds_and_the_others_go_on(hub):
    kept, channel = hub.connect("site-c"), hub.channel("site-c")
    other = hub.channel("site-b")
    assert exchange(kept, PULL, node(hub, "site-c"))[0] == 200
    assert len(rpc(channel)) == 3

    began = time.monotonic()
    hub.pki.revoke(hub.callers["site-c"].serial, datetime.now(UTC))
    reload(hub.settings.folder)
    while rpc(channel) is not grpc.StatusCode.UNAUTHENTICATED:
        assert time.monotonic() - began < 2
        assert len(rpc(other)) == 3
    while True:
        try:
            status = exchange(kept, PULL, node(hub, "site-c"))[0]
        except (ConnectionError, ssl.SSLError, OSError):
            status = hub.post("site-c", PULL, node(hub, "site-c"))[0]
        assert time.monotonic() - began < 2
        if status == 401:
            break

    assert len(rpc(other)) == 3
    for open_one in (kept, channel, other):
        open_one.close()


def test_a_revoked_sites_open_call_ends_soon(hub):
    with hub.channel("site-d") as channel:
        call = channel.unary_stream(FETCH)(b"", timeout=20)
        next(call)
        hub.pki.revoke(hub.callers["site-d"].serial, datetime.now(UTC))
        began = time.monotonic()
        reload(hub.settings.folder)

        with pytest.raises(grpc.RpcError):
            list(call)

    assert call.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 8


def test_every_call_leaves_a_line_that_a_program_can_read(hub):
    hub.post("site-b", PULL + "?secret=1", node(hub, "site-b"), b"12345")
    hub.post("nobody", '/"quoted\x7f', [])
    hub.call("site-b")

    lines = [
        json.loads(line)
        for line in (hub.settings.folder / "logs" / "access.log").read_text().splitlines()
    ]

    fields = ["time", "address", "site", "method", "uri", "status", "bytes_in", "bytes_out",
              "foreign_node"]  # fmt: skip
    assert all(list(line) == fields for line in lines)
    called = {(line["site"], line["method"], line["uri"], line["status"]) for line in lines}
    assert ("site-b", "POST", STUDIES, 200) in called
    assert ("site-b", "POST", PULL, 404) in called
    assert ("", "POST", JOIN, 200) in called
    assert all(line["site"] in {"", *GOOD} for line in lines)
    assert not any("secret" in line["uri"] for line in lines)
