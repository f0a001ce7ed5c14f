"""Rows 1 to 9, 12, 30, 2 and 34 against a real hub with four sites: who may call what, and how much."""

import base64
import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from datetime import datetime
from statistics import median
from types import SimpleNamespace

import nibabel as nib
import pytest
import yaml

from common.errors import FedsegError, RunError
from common.study.load import parse_study
from common.study.study import canonical_json
from common.wire import control_pb2 as pb
from deploy.local import COORDINATOR, LocalFederation, local_federation
from deploy.provision.site_keys import SiteKeys
from deploy.provision.tokens import Invitation
from deploy.supervise.bundle import build_bundle
from deploy.supervise.flower import tool
from deploy.supervise.site_folder import free_port
from server.control.service import ControlService
from server.journal import Journal
from server.registry import ADMITTED, Registry, SiteRow
from server.report.page import render_report
from tests.faults import hostile, tap
from tests.faults.lab import Lab, quiet_end
from tests.faults.wire_calls import CONTROL, PULL, Caller, bad_pairs, handshake
from tests.support.federations import DEFAULTS, SMALL, phantom_sites

pytestmark = pytest.mark.slow

PATIENT = "Mustermann_Erika"
OPENSSL = shutil.which("openssl") or "openssl"
STUDY = parse_study(
    SMALL.format(**{**DEFAULTS, "rounds": 8, "minimum": 1, "each": 0}).replace(
        "steps: 3", "steps: 600"
    )
)
BAD = [
    "none",
    "other-authority",
    "self-signed",
    "expired",
    "not-yet-valid",
    "wrong-purpose",
    "hubs-own",
    "never-admitted",
]


class Town:
    """A hub with four sites, and whoever calls it."""

    def __init__(self, federation, names, folder):
        self.federation, self.names, self.folder = federation, names, folder
        self.port = int(federation.address.rpartition(":")[2])
        self.root = federation.hub / "pki" / "root.crt"
        self.bad = bad_pairs(
            folder / "bad", federation.hub / "pki", self.keys("ct-1").certificate
        )
        self._last = 0

    def keys(self, site):
        return SiteKeys.open(self.federation.site(site) / "keys")

    def caller(self, site=None, node=None):
        """Return a caller at an address that nobody used before."""
        self._last += 1
        pair = self.bad.get(site) if site in self.bad else None
        if site in self.names:
            pair = (self.keys(site).certificate, self.keys(site).tls_key)
        header = self.keys(node).node_header() if node else ""
        return Caller(self.root, self.port, pair, f"127.0.4.{self._last}", header)

    def reached(self):
        """Return how many requests of unknown ports reached Flower, as its own log has them."""
        log = self.federation.hub / "log" / "hub.log"
        return log.read_text(errors="replace")

    def audit(self):
        return (self.federation.hub / "audit/hub.jsonl").read_text()

    def hub(self, *words):
        return self.federation.run(
            COORDINATOR, "hub", *words, "--folder", str(self.federation.hub)
        )


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    folder = tmp_path_factory.mktemp("i")
    data = folder / "data" / PATIENT
    profiles = phantom_sites(data, modalities=("ct", "ct", "mr", "mr"))
    plant(data)
    made = LocalFederation(folder)
    made.environments["mr-1"] = tap.environment(folder / "tap")
    with local_federation(folder, profiles, federation=made) as (federation, names):
        try:
            yield Town(federation, names, folder)
        finally:
            quiet_end(federation)


def plant(data):
    """Put a patient's name into a header, a file's name and a label's name."""
    images = sorted(data.rglob("imagesTr/mr-1_*"))
    image = nib.load(images[0])
    image.header["descrip"] = PATIENT.encode()
    image.header["db_name"] = PATIENT.encode()
    nib.save(
        nib.Nifti1Image(image.get_fdata().astype("float32"), image.affine, image.header),
        images[0],
    )
    images[1].write_bytes(b"rubbish")
    for path in data.rglob("dataset.json"):
        if "mr-1" in str(path):
            path.write_text(path.read_text().replace('"liver"', f'"{PATIENT}"'))
    profile = next(data.rglob("mr-1.yaml"))
    plain = yaml.safe_load(profile.read_text())
    for entry in plain["datasets"]:
        held = entry.get("labels", {})
        entry["labels"] = {k: v for k, v in held.items() if k != "liver"} | {PATIENT: "liver"}
    profile.write_text(yaml.safe_dump(plain))


# --- row 1 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD)
def test_a_bad_certificate_reaches_nothing(town, matrix, name):
    with matrix(
        f"1.{name}",
        f"certificate: {name}; every kind of call",
        "refused in the handshake or by the proxy, nothing reaches Flower or the control service",
    ) as case:
        before = town.reached().count("/v1/fleet/")
        caller = town.caller(name, node="ct-1")
        headers = [("flwr-public-key", caller.node)]
        mark = f"/v1/fleet/pull-{name}"
        try:
            answers = [
                caller.post(p, headers=headers)
                for p in (mark, f"{CONTROL}Studies", "/v1/control/list-runs", "/")
            ]
        except (ssl.SSLError, ConnectionError) as error:
            answers = [(type(error).__name__, b"")]
        status = {str(code) for code, _ in answers}
        code = caller.http2(f"{CONTROL}Studies")
        time.sleep(0.2)
        through = mark in town.reached()
        case.happened = f"HTTP {', '.join(sorted(status))}; gRPC {code}; in Flower's log: {'yes' if through else 'no'}"
        assert before >= 0
        if name == "never-admitted":
            assert code == "PERMISSION_DENIED"
            assert answers[0][0] == 401
        else:
            assert status <= {"401", "SSLError", "ConnectionResetError"}
            assert code in ("UNAUTHENTICATED", "UNAVAILABLE")
        assert not through


# --- rows 3 and 4 --------------------------------------------------------------------------------


def test_another_sites_node_key_is_refused(town, matrix):
    with matrix(
        "3.refused", "certificate of ct-1 with the node key of ct-2", "refused"
    ) as case:
        caller = town.caller("ct-1", node="ct-2")
        status, _ = caller.post(PULL, headers=[("flwr-public-key", caller.node)])
        case.happened = f"HTTP {status}"
        assert status == 401


def test_another_sites_node_key_is_told_in_the_audit(town, matrix):
    with matrix(
        "3.audit", "certificate of ct-1 with the node key of ct-2", "both named in the audit"
    ) as case:
        before = len(town.audit())
        caller = town.caller("ct-1", node="ct-2")
        caller.post(PULL, headers=[("flwr-public-key", caller.node)])
        time.sleep(3)
        new = town.audit()[before:]
        access = (town.federation.hub / "nginx/logs/access.log").read_text().splitlines()
        line = next(x for x in reversed(access) if caller.address in x)
        case.happened = f"audit: {new.strip() or 'nothing'}; the proxy's log: {json.loads(line)['site']}, {json.loads(line)['status']}"
        assert "ct-1" in new
        assert "ct-2" in new


def test_a_second_machine_with_one_sites_keys_is_refused_and_the_site_told(town, matrix):
    with matrix(
        "4", "a copy of ct-2's folder started as a second site", "second refused, site told"
    ) as case:
        site, twin = town.federation.site("ct-2"), town.folder / "twin"
        shutil.copytree(site, twin, ignore=shutil.ignore_patterns("*.sock", "*.lock", ".lock"))
        settings = json.loads((twin / "site.json").read_text())
        settings |= {"runtime_port": free_port(), "metrics_port": free_port()}
        (twin / "site.json").write_text(json.dumps(settings))
        (twin / "run" / "status.json").unlink(missing_ok=True)
        (twin / "log" / "site.log").write_text("")
        before = len(town.audit())
        process = subprocess.Popen(
            [tool("fedseg"), "site", "run", "--folder", str(twin)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            time.sleep(35)
            status = town.hub("status")
        finally:
            process.terminate()
            process.wait(60)
        log = (twin / "log/site.log").read_text(errors="replace")
        refused = log.count("Failed to activate") + log.count("code 305")
        told, second = (
            json.loads((folder / "run/agent.json").read_text())["sentences"]
            for folder in (site, twin)
        )
        audited = town.audit()[before:].count('"event":"second_machine"')
        case.happened = f"the second's node refused {refused} times; in the audit {audited} times, in hub status: {'two machines' in status}, told to both: {second == told}: {'; '.join(told) or 'nothing'}"
        assert refused, "the second works"
        assert told, "the site is told nothing"
        assert second == told
        assert audited == 1
        assert "two machines" in status


# --- row 5 ------------------------------------------------------------------------------------


def request(folder, invitation, site=None):
    keys = SiteKeys.create(folder) if not folder.exists() else SiteKeys.open(folder)
    return keys, pb.JoinRequest(
        site=site or invitation.site, secret=invitation.secret,
        request_pem=keys.csr(site or invitation.site), node_key=keys.node_public_ssh(),
        audit_key=keys.audit_public(), version="0.1.0",
    )  # fmt: skip


def invited(town, name):
    return Invitation.decode(town.hub("invite", name).strip().splitlines()[-1])


def test_a_used_invitation_does_not_work_again(town, matrix, tmp_path):
    with matrix("5.reused", "an invitation that was used, with other keys", "refused") as case:
        invitation = invited(town, "used")
        first = town.caller().join(request(tmp_path / "a", invitation)[1])
        case.happened = town.caller().join(request(tmp_path / "b", invitation)[1])
        assert first.startswith("waiting")
        assert case.happened.startswith("refused")


def test_an_expired_invitation_does_not_work(town, matrix, tmp_path):
    with matrix("5.expired", "an invitation whose time is over", "refused") as case:
        invitation = invited(town, "late")
        town.federation.registry.change(SiteRow, {"name": "late"}, expires=time.time() - 1)
        case.happened = town.caller().join(request(tmp_path / "a", invitation)[1])
        assert case.happened.startswith("refused")


def test_an_invitation_of_another_site_does_not_work(town, matrix, tmp_path):
    with matrix(
        "5.other-site", "one site's invitation under another invited name", "refused"
    ) as case:
        invitation = invited(town, "one")
        invited(town, "two")
        case.happened = town.caller().join(request(tmp_path / "a", invitation, "two")[1])
        assert case.happened.startswith("refused")


def test_guesses_are_limited(town, matrix, tmp_path):
    with matrix(
        "5.guessed",
        "300 guessed invitations from one address",
        "limited; a join from elsewhere is answered meanwhile",
    ) as case:
        invitation = invited(town, "guessed")
        _, asked = request(tmp_path / "a", invitation)
        asked.secret = bytes(16)
        caller, began = town.caller(), time.monotonic()
        told = [caller.join(asked) for _ in range(300)]
        looked = sum(t.startswith("refused") for t in told)
        asked.secret = invitation.secret
        honest = town.caller()
        for _ in range(5):
            answer = honest.join(asked)
            if answer.startswith("waiting"):
                break
            time.sleep(1)
        seconds = time.monotonic() - began
        case.happened = f"{looked} looked at in {seconds:.0f} s, {len(told) - looked} cut off; the honest one: {answer}"
        assert looked < 40
        assert answer.startswith("waiting")


def test_a_stolen_invitation_is_found_by_the_code(town, matrix, tmp_path):
    with matrix(
        "5.stolen",
        "a thief joins first; the site reads its own code over the telephone",
        "refused",
    ) as case:
        invitation = invited(town, "stolen")
        town.caller().join(request(tmp_path / "thief", invitation)[1])
        keys = SiteKeys.create(tmp_path / "site")
        with pytest.raises(RunError) as caught:
            town.hub("admit", "stolen", "--code", keys.short_code(invitation.fingerprint))
        state = town.federation.registry.site("stolen").state
        case.happened = f"{caught.value}; the site is {state}"
        assert state != ADMITTED


# --- row 6 ------------------------------------------------------------------------------------

OFF = {"day-behind": -86_400, "day-ahead": 86_400, "minutes-behind": -600, "minutes-ahead": 600}


@pytest.mark.parametrize("name", OFF)
def test_a_site_whose_clock_is_off_is_told_so(town, matrix, name):
    with matrix(
        f"6.site.{name}", f"ct-1 reports with a clock {OFF[name]} s off", "a clear message"
    ) as case:
        reply = town.caller("ct-1").report(clock=time.time() + OFF[name])
        case.happened = "; ".join(reply.sentences) or "nothing said"
        assert "clock" in case.happened


class Call:
    """As much of a gRPC call as the services look at."""

    def __init__(self, site):
        self._site = site

    def invocation_metadata(self):
        return (("x-client-cn", self._site), ("x-client-serial", "01"))

    def abort(self, code, details):
        raise RuntimeError(f"{code.name}: {details}")


JUMPS = {
    "day-back": -86_400.0,
    "hour-back": -3600.0,
    "day-ahead": 86_400.0,
    "minutes-back": -600.0,
}


@pytest.mark.parametrize("name", JUMPS)
def test_the_hubs_clock_jumps_and_sites_are_served(matrix, tmp_path, name):
    with matrix(
        f"6.hub.{name}",
        f"the hub's clock jumps by {JUMPS[name]:.0f} s under its control service",
        "sites are served, nothing expires in silence",
    ) as case:
        registry = Registry(tmp_path / "registry.db")
        registry.create()
        registry.put(
            SiteRow,
            {"name": "ct-1"},
            state=ADMITTED,
            certificate_ends=time.time() + 80 * 86_400,
            serial="01",
        )
        offset = [0.0]
        service = ControlService(registry, 30 * 86_400.0, lambda: time.time() + offset[0])
        asked = pb.ReportRequest(version="0.1.0", ready=True)
        service.Report(asked, Call("ct-1"))
        offset[0] = JUMPS[name]
        said = []
        for _ in range(5):
            try:
                reply = service.Report(asked, Call("ct-1"))
                said.append(f"served, renew {reply.renew}")
            except RuntimeError as error:
                said.append(str(error))
        case.happened = "; ".join(dict.fromkeys(said))
        assert all(s.startswith("served") for s in said)


# --- row 7 ------------------------------------------------------------------------------------


def test_tls_1_1_is_refused(town, matrix):
    with matrix("7.tls11", "a handshake of TLS 1.1 at most", "refused") as case:
        context = town.caller("ct-1").context()
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)) as caught:
            handshake(town.caller(), context, ssl.SSLSocket.version)
        case.happened = f"refused: {caught.value}"


@pytest.mark.parametrize(
    "cipher", ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA", "NULL-SHA256"]
)
def test_a_weak_cipher_is_refused(town, matrix, cipher):
    with matrix(f"7.cipher.{cipher}", f"a handshake with {cipher} alone", "refused") as case:
        context = town.caller("ct-1").context()
        try:
            context.set_ciphers(f"{cipher}:@SECLEVEL=0")
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            case.happened = str(handshake(town.caller(), context, ssl.SSLSocket.cipher))
        except (ssl.SSLError, ConnectionError) as error:
            case.happened = f"refused: {error}"
        assert case.happened.startswith("refused")


def test_renegotiation_is_refused(town, matrix):
    with matrix("7.renegotiation", "a client asks to renegotiate (TLS 1.2)", "refused") as case:
        done = subprocess.run(
            [OPENSSL, "s_client", "-tls1_2", "-connect", f"127.0.0.1:{town.port}", "-CAfile", str(town.root)],
            input=b"R\n", capture_output=True, timeout=20, check=False,
        )  # fmt: skip
        text = (done.stdout + done.stderr).decode(errors="replace")
        lines = [
            x
            for x in text.splitlines()
            if "renegot" in x.lower() or "alert" in x.lower() or "unexpected" in x.lower()
        ]
        case.happened = "; ".join(lines[-3:])[:200] or text[-100:]
        assert "RENEGOTIATING" in text
        assert "no renegotiation" in text or done.returncode != 0


def test_huge_headers_are_refused(town, matrix):
    with matrix("7.headers", "headers of 64 KB", "refused") as case:
        caller = town.caller("ct-1", node="ct-1")
        try:
            status, _ = caller.post(
                PULL, headers=[("flwr-public-key", caller.node), ("x-large", "x" * 65_536)]
            )
        except (ConnectionError, ssl.SSLError) as error:
            status = type(error).__name__
        case.happened = f"HTTP {status}"
        assert status in (400, 414, 431, "ConnectionResetError", "BrokenPipeError")


def served_meanwhile(town, seconds):
    """Return the seconds that each call of a site took during a time, and how many failed."""
    took, failed, until = [], 0, time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            reply = Caller(town.root, town.port, town.caller("mr-1").pair, "127.0.5.1").report(
                clock=time.time()
            )
            failed += isinstance(reply, str)
        except (OSError, ssl.SSLError):
            failed += 1
        took.append(time.monotonic() - began)
        time.sleep(0.5)
    return took, failed


def test_slow_headers_are_cut_off_and_sites_go_on(town, matrix):
    with matrix(
        "7.slow",
        "200 connections that send one byte of a header a second",
        "cut off; sites are served meanwhile",
    ) as case:
        opened, ended, stop = [], [], threading.Event()

        def drip(number):
            with contextlib.suppress(OSError, ssl.SSLError):
                plain = socket.create_connection(
                    ("127.0.0.1", town.port), 10, (f"127.0.6.{number % 250 + 1}", 0)
                )
                context = ssl.create_default_context(cafile=town.root)
                with context.wrap_socket(plain, server_hostname="localhost") as secured:
                    opened.append(number)
                    began = time.monotonic()
                    secured.settimeout(1)
                    secured.sendall(b"POST / HTTP/1.1\r\nx: ")
                    while not stop.wait(1):
                        secured.sendall(b"x")
                        with contextlib.suppress(TimeoutError):
                            if secured.recv(100) == b"":
                                break
                    ended.append(time.monotonic() - began)
                    return
            ended.append(0.0)

        threads = [threading.Thread(target=drip, args=(n,), daemon=True) for n in range(200)]
        for thread in threads:
            thread.start()
        took, failed = served_meanwhile(town, 20)
        cut = len(ended)
        stop.set()
        case.happened = f"{len(opened)} opened, {cut} cut off in 20 s; a site's call took {median(took):.2f} s, {max(took):.1f} s at most, {failed} of {len(took)} failed"
        assert cut > 150
        assert failed == 0


def is_connected(sock):
    with contextlib.suppress(OSError):
        return bool(sock.getpeername())
    return False


def test_ten_thousand_half_open_connections(town, matrix):
    with matrix(
        "7.half-open",
        "10,000 connections that never begin a handshake",
        "bounded; sites are served meanwhile",
    ) as case:
        held = []
        for number in range(10_000):
            sock = socket.socket()
            sock.settimeout(0)
            sock.bind((f"127.0.{7 + number // 250 % 40}.{number % 250 + 1}", 0))
            sock.connect_ex(("127.0.0.1", town.port))
            held.append(sock)
        connected = sum(is_connected(sock) for sock in held)
        try:
            took, failed = served_meanwhile(town, 20)
        finally:
            for sock in held:
                sock.close()
        alive = {
            s: town.federation.registry.site(s).seen > time.time() - 30 for s in town.names
        }
        case.happened = f"{connected} connected; a site's new call took {median(took):.2f} s, {max(took):.1f} s at most, {failed} of {len(took)} failed; seen in the last 30 s: {sum(alive.values())} of {len(alive)} sites"
        time.sleep(12)
        assert failed == 0


# --- row 8 ------------------------------------------------------------------------------------

PATHS = {
    "control": ["/v1/control/list-runs", "/v1/control/start-run", "/v1/control/register-node"],
    "runtime": ["/v1/runtime/acquire-task", "/v1/runtime"],
    "docs": ["/docs", "/openapi.json", "/redoc"],
    "health": ["/health", "/healthz"],
    "double-slash": [
        "//v1/control/list-runs",
        "/v1//control/list-runs",
        "/v1/fleet//../control/list-runs",
    ],
    "encoded": [
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/..%2fcontrol/list-runs",
        "/v1/%63ontrol/list-runs",
        "/v1/control%2flist-runs",
    ],
    "dots": [
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/./../control/list-runs",
        "/v1/fleet/..;/control/list-runs",
    ],
    "trailing": ["/v1/control/list-runs/", "/docs/", "/health/", "/v1/runtime/"],
    "case": ["/V1/CONTROL/list-runs", "/Docs"],
    "absolute": ["https://localhost/v1/control/list-runs", "http://127.0.0.1/docs"],
    "null": ["/v1/control/list-runs%00", "/v1/fleet/pull-messages%00/../../control"],
    "backslash": ["/v1/fleet\\..\\control\\list-runs"],
}


@pytest.mark.parametrize("who", ["stranger", "site"])
@pytest.mark.parametrize("name", PATHS)
def test_nothing_of_flowers_inside_is_public(town, matrix, who, name):
    with matrix(
        f"8.{name}.{who}", f"a {who} asks for {', '.join(PATHS[name])}", "refused"
    ) as case:
        caller = town.caller("ct-1" if who == "site" else None, node="ct-1")
        headers = [("flwr-public-key", caller.node)]
        answers = [caller.post(path, headers=headers)[0] for path in PATHS[name]]
        case.happened = f"HTTP {answers}"
        assert all(400 <= status < 500 for status in answers)


@pytest.mark.parametrize("who", ["stranger", "site"])
def test_nor_over_http2(town, matrix, who):
    with matrix(
        f"8.http2.{who}", f"a {who} asks for Flower's paths over HTTP/2", "refused"
    ) as case:
        caller = town.caller("ct-1" if who == "site" else None)
        answers = [
            caller.http2(path)
            for path in (
                "/v1/control/list-runs",
                "/v1/runtime/acquire-task",
                "/docs",
                "/health",
            )
        ]
        case.happened = f"gRPC {answers}"
        assert set(answers) <= {"UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED"}


@pytest.mark.parametrize("host", ["superlink", "127.0.0.1:9092", "evil.example"])
def test_nor_under_another_host_name(town, matrix, host):
    with matrix(
        f"8.host.{host}",
        f"a site asks for Flower's control with the host name {host}",
        "refused",
    ) as case:
        caller = town.caller("ct-1")
        connection = caller.connect()
        connection.putrequest("POST", "/v1/control/list-runs", skip_host=True)
        connection.putheader("Host", host)
        connection.putheader("Content-Length", "0")
        connection.endheaders()
        status = connection.getresponse().status
        connection.close()
        case.happened = f"HTTP {status}"
        assert 400 <= status < 500


# --- row 9 ------------------------------------------------------------------------------------


def test_an_unknown_method_is_refused(town, matrix):
    with matrix(
        "9.method", "a site calls a method that the control service lacks", "refused"
    ) as case:
        case.happened = f"gRPC {town.caller('ct-1').http2(f'{CONTROL}Format')}"
        assert "UNIMPLEMENTED" in case.happened


def test_a_hundred_megabytes_are_refused(town, matrix):
    with matrix(
        "9.large", "a site sends a message of 100 MB", "refused, others unaffected"
    ) as case:
        caller = town.caller("ct-1")
        connection = caller.connect()
        connection.putrequest("POST", f"{CONTROL}Report")
        for key, value in (
            ("Content-Length", str(100 << 20)),
            ("Content-Type", "application/grpc"),
            ("TE", "trailers"),
        ):
            connection.putheader(key, value)
        connection.endheaders()
        try:
            for _ in range(100):
                connection.send(bytes(1 << 20))
            status = connection.getresponse().status
        except (ConnectionError, ssl.SSLError, OSError):
            try:
                status = connection.getresponse().status
            except OSError as error:
                status = type(error).__name__
        connection.close()
        began = time.monotonic()
        other = town.caller("ct-2").report(clock=time.time())
        case.happened = (
            f"{status}; another site's call meanwhile took {time.monotonic() - began:.2f} s"
        )
        assert status in (
            413,
            "ConnectionResetError",
            "BrokenPipeError",
            "ConnectionAbortedError",
        )
        assert not isinstance(other, str)


def test_ten_thousand_calls_of_one_site_are_limited(town, matrix):
    with matrix(
        "9.calls", "10,000 calls of one site as fast as it can", "limited; others unaffected"
    ) as case:
        caller, statuses = town.caller("mr-2"), []

        def flood():
            connection = caller.connect()
            while len(statuses) < 10_000:
                try:
                    statuses.append(
                        caller.call(
                            f"{CONTROL}Report",
                            pb.ReportRequest(version="0.1.0", ready=True),
                            connection,
                        )[0]
                    )
                except (OSError, ssl.SSLError):
                    connection = caller.connect()
            connection.close()

        began = time.monotonic()
        threads = [threading.Thread(target=flood, daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        took, failed = served_meanwhile(town, 6)
        for thread in threads:
            thread.join(120)
        seconds = time.monotonic() - began
        through = statuses.count(200)
        case.happened = f"{len(statuses)} calls in {seconds:.0f} s, {through} let through; another site's took {median(took):.2f} s, {max(took):.1f} s at most, {failed} failed"
        assert through < 100 + 20 * (seconds + 1)
        assert failed == 0
        assert median(took) < 1


# --- row 12 -----------------------------------------------------------------------------------

BUNDLES = ["other", "same-name", "zip-slip", "symlink", "huge", "shadow-common", "shadow-torch"]


def bundle(name, told, marker, folder):
    own = {"name": "fedseg", "publisher": "fedseg"}
    if name == "other":
        return hostile.zipped(hostile.files_of(told, marker))
    if name == "shadow-common":
        return hostile.zipped(
            hostile.files_of(told, marker, **own, shadow=["common/__init__.py"])
        )
    if name == "shadow-torch":
        return hostile.zipped(
            hostile.files_of(told, marker, **own, shadow=["torch/__init__.py", "torch.py"])
        )
    more = {
        "same-name": [],
        "zip-slip": [("../" * 12 + str(folder).lstrip("/") + "/slipped", b"slipped")],
        "symlink": [hostile.link_to(str(folder))],
        "huge": [hostile.huge(2**30)],
    }[name]
    return hostile.zipped(hostile.files_of(told, marker, **own), more)


@pytest.mark.parametrize("name", BUNDLES)
def test_a_hostile_bundle_is_refused_before_it_is_unpacked(town, matrix, tmp_path, name):
    with matrix(
        f"12.{name}",
        f"a run with an app bundle: {name}",
        "refused by every site before it is unpacked, no marker of an import",
    ) as case:
        told, marker = tmp_path / "told.json", tmp_path / "imported"
        content = bundle(name, told, marker, tmp_path)
        before = apps(town)
        said = hostile.start(town.federation.hub, content, tmp_path)
        until = time.monotonic() + (50 if said == "started" else 2)
        while not told.exists() and time.monotonic() < until:
            time.sleep(0.3)
        codes = json.loads(told.read_text()) if told.exists() else {}
        refusals = sum(
            hostile.digest(content)
            in (town.federation.site(s) / "log/site.log").read_text(errors="replace")
            for s in town.names
        )
        case.happened = f"{said}; codes of the nodes: {sorted(codes.values())}; {refusals} sites logged the refusal; imported: {marker.exists()}; new below the sites' apps: {len(apps(town) - before)}"
        assert not marker.exists()
        assert not (tmp_path / "slipped").exists()
        assert apps(town) == before
        if codes:
            assert set(codes.values()) == {7}
            assert refusals == len(town.names)


def apps(town):
    return {p for s in town.names for p in (town.federation.site(s) / "flower").rglob("apps/*")}


HOOK = """
import hashlib, sys
from pathlib import Path
from types import SimpleNamespace
from deploy.supervise.supernode import _allow_bundle
_allow_bundle(Path(sys.argv[1]))
import flwr.supernode.start_client_internal as internal
for path in sys.argv[2:]:
    fab = SimpleNamespace(content=Path(path).read_bytes(), hash_str=Path(sys.argv[1]).read_text().strip())
    print(internal._verify_fab(fab, {}))
"""


def test_the_sites_own_check_lets_in_its_own_bundle_alone(town, matrix, tmp_path):
    with matrix(
        "12.check",
        "each hostile bundle, under the digest of the right one, given to the site's own check",
        "all refused; its own bundle let in",
    ) as case:
        paths = []
        for name in BUNDLES:
            paths.append(tmp_path / f"{name}.fab")
            paths[-1].write_bytes(
                bundle(name, tmp_path / "told", tmp_path / "imported", tmp_path)
            )
        own = tmp_path / "own.fab"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a library of Flower's
            own.write_bytes(build_bundle().content)
        allowed = town.federation.site("ct-1") / "flower/bundle.sha256"
        done = subprocess.run(
            [sys.executable, "-c", HOOK, str(allowed), *map(str, paths), str(own)],
            capture_output=True,
            text=True,
            check=True,
        )
        found = done.stdout.split()
        case.happened = f"{found.count('False')} refused, let in: {found[-1]}"
        assert found == ["False"] * len(paths) + ["True"]


# --- row 30 -----------------------------------------------------------------------------------

TWICE = {
    "hub": (
        "a second `hub serve` on one hub's folder",
        lambda t: ("hub", "serve", "--folder", str(t.federation.hub)),
    ),
    "site": (
        "a second `site run` on one site's folder",
        lambda t: ("site", "run", "--folder", str(t.federation.site("ct-1"))),
    ),
}


@pytest.mark.parametrize("who", TWICE)
def test_a_second_supervisor_is_refused(town, matrix, who):
    done, words = TWICE[who]
    with matrix(f"30.{who}", done, "the second is refused, the first goes on") as case:
        name = COORDINATOR if who == "hub" else "ct-1"
        before = town.federation.pids(name)
        ended = subprocess.run(
            [tool("fedseg"), *words(town)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        case.happened = f"ended with {ended.returncode}: {(ended.stderr + ended.stdout).strip().splitlines()[-1]}"
        assert ended.returncode == 4
        assert town.federation.pids(name) == before


# --- rows 34 and 2: with a run ------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(town):
    """Begin a run with three of the sites."""
    file = town.folder / "study.yaml"
    file.write_text(canonical_json(STUDY))
    run = town.federation.start_study(file)
    for site in ("ct-1", "ct-2", "mr-1"):
        town.federation.approve(site, run, "--minimum-cases", "1")
    town.hub("stop", run)  # it may have begun with the first of them
    return town.federation.start_study(file)


def test_no_planted_name_is_anywhere_at_the_hub(town, matrix, run):
    with matrix(
        "34.disk",
        "a patient's name as folder, header, file of an unreadable case and label at the sites; a round trained",
        "absent from the hub's disk, databases and logs, also while it runs",
    ) as case:
        journal = Journal(town.federation.hub / "runs" / run)
        looked, holding, until = 0, set(), time.monotonic() + 180
        while not journal.closed_rounds() and time.monotonic() < until:
            for path in town.federation.hub.rglob("*"):
                with contextlib.suppress(OSError):
                    if path.is_file():
                        looked += 1
                        if PATIENT.encode() in path.read_bytes():
                            holding.add(path.name)
            time.sleep(0.5)
        closed = journal.closed_rounds()
        inside = (town.federation.site("mr-1") / "log/worker.jsonl").read_text()
        case.happened = f"{looked} files read in the course of a round with {[a.report.site for a in closed[0].accepted]}; holding it: {sorted(holding) or 'none'}; the site's own log has it: {PATIENT in inside}"
        assert not holding


def test_no_planted_name_was_sent(town, matrix, run):
    with matrix(
        "34.wire",
        "the same, every byte that mr-1's programs gave to TLS and to gRPC since it joined",
        "absent, also as UTF-16 and in base64; the weights and the site's reports are there",
    ) as case:
        sent = tap.sent(town.folder / "tap")
        coded = [PATIENT.encode(), PATIENT.encode("utf-16-le"), PATIENT.lower().encode()]
        shifted = [base64.b64encode(b"\0" * i + PATIENT.encode()) for i in range(3)]
        coded += [text[4 * bool(i) : -4] for i, text in enumerate(shifted)]
        found = {kind: sum(data.count(name) for name in coded) for kind, data in sent.items()}
        sizes = {kind: f"{len(data) / 1e3:.0f} kB" for kind, data in sent.items()}
        weights = sent["tls"].count(b"__metadata__") + sent["tls"].count(b"data_offsets")
        case.happened = f"sent: {sizes}, with {weights} tensors in it; the name in it: {found}"
        assert weights, "the tap saw no update"
        assert b"0.1.0" in sent["grpc"], "the tap saw no report"
        assert not any(found.values())


def test_no_planted_name_is_in_the_report(town, matrix, run):
    with matrix("34.report", "the same, the hub's report of the run", "absent") as case:
        folder = town.folder / "copy"
        shutil.copytree(town.federation.hub / "runs" / run, folder)
        try:
            page = render_report(folder, None)
        except FedsegError as error:
            page = str(error)
        case.happened = f"{len(page)} characters, {page.count(PATIENT)} times"
        assert PATIENT not in page


def cut_after(town, site):
    """Revoke a site; return the seconds until it was cut off, and how many calls came through.

    Cut off is after its last success, to the second that the log has, and not before the first
    refusal of somebody whose certificate does not count.
    """
    access = town.federation.hub / "nginx/logs/access.log"
    size, began = access.stat().st_size, time.time()
    worker = threading.Thread(target=town.hub, args=("revoke", site))
    worker.start()
    refused = None
    until = time.monotonic() + 30
    while refused is None and time.monotonic() < until:
        time.sleep(0.05)
        if town.federation.registry.site(site).state != "revoked":
            continue
        for line in access.read_text()[size:].splitlines():
            told = json.loads(line)
            if told["status"] == 401 and told["site"] in ("", site):
                refused = time.time() - began
    worker.join(60)
    assert refused is not None, "never refused"
    time.sleep(6)  # an idle site calls every few seconds
    calls = [json.loads(x) for x in access.read_text()[size:].splitlines()]
    let_in = [
        datetime.fromisoformat(x["time"]).timestamp() + 1 - began
        for x in calls
        if x["site"] == site and x["status"] == 200
    ]
    return max([refused, *let_in]), len(let_in)


def test_an_idle_site_is_cut_off(town, matrix):
    with matrix(
        "2.idle",
        "the certificate of an idle site is revoked",
        "cut off within 10 s, counted from the command's start",
    ) as case:
        refused, let_in = cut_after(town, "mr-2")
        case.happened = (
            f"cut off after {refused:.1f} s; let through after the command began: {let_in}"
        )
        assert refused < 10


def test_a_site_is_cut_off_in_mid_round_and_the_round_goes_on(town, matrix, run):
    with matrix(
        "2.round",
        "the certificate of a site is revoked while it trains",
        "cut off within 10 s, the round goes on without waiting",
    ) as case:
        lab = SimpleNamespace(run=run, federation=town.federation)
        number = Lab.phase(lab, "ct-2", "training", step=0.1)
        began = time.monotonic()
        refused, _ = cut_after(town, "ct-2")
        journal = Journal(town.federation.hub / "runs" / run)
        while len(journal.closed_rounds()) < number and time.monotonic() - began < 200:
            time.sleep(0.1)
        seconds = time.monotonic() - began
        closed = journal.closed_rounds()[number - 1]
        case.happened = f"cut off after {refused:.1f} s; round {number} closed with {[a.report.site for a in closed.accepted]} after {seconds:.0f} s: {closed.refused}"
        case.lost = "the round in flight of ct-2"
        assert refused < 10
        assert "ct-2" not in [a.report.site for a in closed.accepted]
        assert seconds < 45


@pytest.mark.parametrize("site", ["ct-2", "mr-2"])
def test_a_revoked_site_does_not_come_back(town, matrix, site):
    with matrix(
        f"2.rejoin.{site}",
        f"{site} calls with its old certificate, and joins with its old keys",
        "refused, told why",
    ) as case:
        status = town.caller(site).report(clock=time.time())
        row = town.federation.registry.site(site)
        told = json.loads((town.federation.site(site) / "run/agent.json").read_text())["hub"]
        case.happened = f"{status}; the site is {row.state}; its agent says: {told}"
        assert isinstance(status, str)
        assert row.state == "revoked"
        assert "revoked" in told


def test_the_run_ends_without_the_revoked(town, matrix, run):
    with matrix(
        "2.end", "the same run after a revocation in mid-round", "finishes all rounds"
    ) as case:
        row = town.federation.wait_for(run, 300)
        case.happened = f"{row.state} after {row.round} rounds"
        assert row.round == 8
