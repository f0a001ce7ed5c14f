"""A hospital whose only way out is a proxy: both channels must take it, loopback never."""

import socket
import socketserver
import threading

import pytest

from common.study.study import canonical_json
from deploy.local import LocalFederation, local_federation
from server.journal import Journal
from tests.support.federations import phantom_sites, small_study
from tests.support.wires import HUB, _do, can_make_wires, wires

EXPECTED = "they join, report and train; nothing else is asked of the proxy"
BEHIND = "10.99.0.1"  # the sites have no route to it

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_make_wires(), reason="needs root, ip and tap devices"),
]


class Connect(socketserver.StreamRequestHandler):
    """One CONNECT, carried until either side ends."""

    def handle(self):
        words = self.rfile.readline().decode().split()
        while self.rfile.readline().strip():
            pass
        self.server.asked.append((words[0], words[1]))
        if words[0] != "CONNECT":
            self.wfile.write(b"HTTP/1.1 405 Only CONNECT\r\n\r\n")
            return
        host, _, port = words[1].rpartition(":")
        with socket.create_connection((host, int(port)), 10) as far:
            self.wfile.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            back = threading.Thread(target=_carry, args=(far, self.connection), daemon=True)
            back.start()
            _carry(self.connection, far)
            back.join(5)


def _carry(one, other):
    try:
        while piece := one.recv(1 << 16):
            other.sendall(piece)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        return


class Proxy(socketserver.ThreadingTCPServer):
    """A hospital's proxy; notes whom it was asked for."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address):
        super().__init__(address, Connect)
        self.asked = []


def test_sites_behind_a_proxy_join_and_train(tmp_path_factory, matrix):
    folder = tmp_path_factory.mktemp("p")
    names = ["ct-1", "mr-1"]
    profiles = phantom_sites(folder / "data", modalities=("ct", "mr"))
    file = folder / "study.yaml"
    file.write_text(canonical_json(small_study(rounds=2, minimum=2)))
    case = matrix("24.proxy", "sites can reach the hub through a CONNECT proxy only", EXPECTED)
    with case as told, wires(names) as lines:
        _do("ip", "addr", "add", f"{BEHIND}/32", "dev", "lo")
        proxy = Proxy((HUB, 0))
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            made = LocalFederation(folder / "f", host=BEHIND, prefix=lines.prefix())
            way = f"http://{HUB}:{proxy.server_address[1]}"
            # one spelling each, as two hospitals' administrators would
            made.environments = {"ct-1": {"https_proxy": way}, "mr-1": {"HTTPS_PROXY": way}}
            with local_federation(folder / "f", profiles, federation=made) as (federation, _):
                run = federation.start_study(file)
                for name in names:
                    federation.approve(name, run, "--minimum-cases", "1")
                federation.wait_for(run, 200)
                rounds = Journal(federation.hub / "runs" / run).closed_rounds()
        finally:
            proxy.shutdown()
            proxy.server_close()
            _do("ip", "addr", "del", f"{BEHIND}/32", "dev", "lo")
        targets = set(proxy.asked)
        told.happened = (
            f"{len(rounds)} rounds of {len(rounds[0].accepted)} sites; {len(proxy.asked)} tunnels, "
            f"to {len(targets)} address"
        )
        assert targets == {("CONNECT", made.address)}
        assert all(len(closed.accepted) == 2 for closed in rounds)
