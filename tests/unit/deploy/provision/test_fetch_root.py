import http.server
import os
import socket
import ssl
import threading
from base64 import b64encode
from contextlib import contextmanager, suppress

import pytest

from common.errors import InputError, RefusedError, RunError
from deploy.provision.fetch_root import fetch_root, proxy_for

PROXIES = ["https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


@contextmanager
def listening(answer):
    """Give each connection to ``answer``, until the block ends; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with suppress(OSError):
                while True:
                    connection, _address = listener.accept()
                    with connection, suppress(OSError):
                        connection.settimeout(5)
                        answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def tls(chain, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)

    def answer(connection):
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(1)

    return answer


@pytest.fixture
def hub(pki):
    with listening(tls(pki.files.hub_chain, pki.files.server_key)) as port:
        yield port


class Proxy(http.server.BaseHTTPRequestHandler):
    """Leads every name to one port here, and remembers what it was asked."""

    port = 0
    refuses = False
    asked = ()

    def do_CONNECT(self):
        Proxy.asked += ((self.path, self.headers.get("Proxy-Authorization")),)
        if Proxy.refuses:
            self.send_error(407)
            return
        self.send_response(200)
        self.end_headers()
        with socket.create_connection(("127.0.0.1", Proxy.port)) as there:
            back = threading.Thread(target=pump, args=(there, self.connection))
            back.start()
            pump(self.connection, there)
            back.join()

    def log_message(self, *_arguments):
        pass


def pump(source, target):
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(hub, monkeypatch):
    monkeypatch.setattr(Proxy, "port", hub)
    monkeypatch.setattr(Proxy, "asked", ())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:p%40ss@127.0.0.1:{server.server_port}")
        yield Proxy
        server.shutdown()
        thread.join()


def test_the_root_that_the_invitation_names_is_found(hub, pki):
    pem = fetch_root(f"127.0.0.1:{hub}", pki.fingerprint().upper())

    assert pem == pki.files.root.read_bytes()


def test_another_hub_is_refused_by_name_of_its_issuer(hub):
    with pytest.raises(RefusedError, match=r"is not the hub .* issued by 'fedseg hub'"):
        fetch_root(f"localhost:{hub}", "0" * 64)


def test_a_server_that_leaves_its_root_out_is_refused(pki, tmp_path):
    chain = pki.files.hub_chain.read_text().split("-----BEGIN")
    (tmp_path / "short.pem").write_text("-----BEGIN".join(chain[:-1]))

    with (
        listening(tls(tmp_path / "short.pem", pki.files.server_key)) as port,
        pytest.raises(RefusedError, match="is not the hub that the invitation names"),
    ):
        fetch_root(f"127.0.0.1:{port}", pki.fingerprint())


@pytest.mark.parametrize(
    "answer",
    [lambda c: c.sendall(b"SSH-2.0-OpenSSH\r\n"), lambda c: None, lambda c: c.recv(999) * 0],
    ids=["not TLS", "closes", "says nothing"],
)
def test_what_is_no_hub_at_all_cannot_be_reached(answer):
    with (
        listening(answer) as port,
        pytest.raises(RunError, match=rf"127.0.0.1:{port}: cannot be reached over TLS"),
    ):
        fetch_root(f"127.0.0.1:{port}", "0" * 64, timeout_s=0.3)


def test_a_closed_port_cannot_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]

    with pytest.raises(RunError, match="check the address, the firewall and the proxy"):
        fetch_root(f"127.0.0.1:{port}", "0" * 64, timeout_s=2)


def test_the_way_leads_through_the_proxy_with_its_password(proxy, pki):
    pem = fetch_root("hub.invalid:443", pki.fingerprint())

    assert pem == pki.files.root.read_bytes()
    assert proxy.asked == (("hub.invalid:443", f"Basic {b64encode(b'user:p@ss').decode()}"),)


def test_a_proxy_without_a_password_is_sent_none(proxy, pki, monkeypatch):
    monkeypatch.setenv("https_proxy", os.environ["HTTPS_PROXY"].replace("user:p%40ss@", ""))

    fetch_root("hub.invalid:443", pki.fingerprint())

    assert proxy.asked == (("hub.invalid:443", None),)


def test_a_proxy_that_refuses_is_named_without_its_password(proxy, monkeypatch):
    monkeypatch.setattr(proxy, "refuses", True)

    with pytest.raises(RunError, match=r"by the proxy 127\.0\.0\.1:\d+: .*407") as raised:
        fetch_root("hub.invalid:443", "0" * 64)

    assert "p@ss" not in str(raised.value)
    assert "p%40ss" not in str(raised.value)


def test_loopback_is_never_reached_through_the_proxy(proxy, hub, pki):
    for host in ("127.0.0.1", "localhost"):
        fetch_root(f"{host}:{hub}", pki.fingerprint())

    assert proxy.asked == ()


@pytest.mark.parametrize(
    ("environment", "host", "proxy"),
    [
        ({}, "hub.org", None),
        ({"https_proxy": "http://p:3128"}, "hub.org", "p"),
        ({"HTTPS_PROXY": "p:3128"}, "hub.org", "p"),
        ({"HTTPS_PROXY": "http://p/"}, "hub.org", "p"),
        ({"https_proxy": "http://p:1", "HTTPS_PROXY": "http://q:1"}, "hub.org", "p"),
        ({"https_proxy": "http://p:1", "no_proxy": "hub.org"}, "hub.org", None),
        ({"https_proxy": "http://p:1", "no_proxy": "x, .org"}, "hub.org", None),
        ({"https_proxy": "http://p:1", "NO_PROXY": "*"}, "hub.org", None),
        ({"https_proxy": "http://p:1", "no_proxy": "b.org"}, "hub.org", "p"),
        ({"https_proxy": "http://p:1"}, "127.9.9.9", None),
        ({"https_proxy": "http://p:1"}, "::1", None),
        ({"https_proxy": "http://p:1"}, "LocalHost", None),
        ({"https_proxy": "http://p:1"}, "192.0.2.1", "p"),
    ],
)
def test_the_environment_says_which_proxy(monkeypatch, environment, host, proxy):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    found = proxy_for(host)

    assert (found and found.hostname) == proxy


@pytest.mark.parametrize(
    "url", ["https://p:3128", "socks5://p:1080", "http://", "http://p:x", "http://p:0"]
)
def test_a_proxy_that_cannot_be_used_is_told(monkeypatch, url):
    monkeypatch.setenv("https_proxy", url)

    with pytest.raises(InputError, match="https_proxy: must be http://host:port"):
        proxy_for("hub.org")


@pytest.mark.parametrize("address", ["hub", "https://hub:443", "hub:99999"])
def test_an_address_that_is_none_is_told(address):
    with pytest.raises(InputError, match="must be host:port"):
        fetch_root(address, "0" * 64)
