"""The doctor at a real hub's and a real site's folder, and its command."""

import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import grpc
import pytest
import typer
from typer.testing import CliRunner

from common.wire import control_pb2 as pb
from common.wire.control_pb2_grpc import ControlServicer, add_ControlServicer_to_server
from deploy.cli.doctor import doctor
from deploy.doctor.hub import hub_findings
from deploy.doctor.ports import look_at_port
from deploy.doctor.processes import alive, programs_of
from deploy.doctor.reach import ask_hub
from deploy.doctor.secrecy import entries_of, top_of
from deploy.doctor.site import site_findings
from deploy.provision.authority import Authorities
from deploy.provision.site_keys import SiteKeys
from deploy.provision.tokens import Invitation
from deploy.supervise.desk import make_hub
from deploy.supervise.hub_folder import HubSettings
from deploy.supervise.site_folder import SiteFolder, SiteSettings, free_port
from server.registry import ADMITTED, SiteRow

APP = typer.Typer()
APP.command()(doctor)


def now():
    return datetime.now(UTC)


@pytest.fixture
def hub(tmp_path):
    settings = HubSettings(
        address=f"localhost:{free_port()}",
        listen="127.0.0.1",
        superlink_port=free_port(),
        metrics_port=free_port(),
    )
    return make_hub(tmp_path / "hub", settings)


@pytest.fixture
def site(tmp_path, hub):
    """Return a site that the hub has admitted, beside the hub."""
    authorities = Authorities.open(hub.pki)
    folder = tmp_path / "site"
    folder.mkdir(mode=0o700)
    keys = SiteKeys.create(folder / "keys")
    issued = authorities.issue_site(keys.csr("A"), "A", now=now())
    keys.install(issued.pem, site="A", now=now(), root_pem=hub.root.read_bytes())
    data = folder.parent / "data"
    data.mkdir()
    (data / "dataset.json").write_text(
        '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}}'
    )
    profile = folder.parent / "profile.yaml"
    profile.write_text(f"name: A\ndevice: cpu\ndatasets: [{{folder: {data}, modality: ct}}]\n")
    return SiteFolder.create(
        folder,
        SiteSettings(
            site="A", address=hub.settings.address, fingerprint=authorities.fingerprint(),
            profile=str(profile), runtime_port=free_port(), metrics_port=free_port(),
        ),
    )  # fmt: skip


def by_what(findings):
    return {finding.what: finding for finding in findings}


def failed(findings):
    return {f.what for f in findings if f.state == "fail"}


# --- a hub -------------------------------------------------------------------------------


def test_a_new_hub_is_healthy_but_for_its_roots_key(hub):
    found = list(hub_findings(hub, now()))

    assert failed(found) <= {"nginx"}
    assert by_what(found)["root key"].state == "warn"


def test_a_hub_is_told_what_was_broken(hub):
    (hub.pki / "sites.key").chmod(0o644)
    hub.registry.put(
        SiteRow, {"name": "A"}, state=ADMITTED, version="9.9", seen=1.0, clock_offset=-400.0
    )
    with socket.socket() as other:
        other.bind(("127.0.0.1", hub.settings.superlink_port))
        other.listen()

        found = list(hub_findings(hub, now() + timedelta(days=40)))

    port = f"SuperLink's port {hub.settings.superlink_port}"
    assert failed(found) - {"nginx"} == {"keys", "clock", "revocation list", port}
    assert "A 9.9" in by_what(found)["fedseg"].words
    assert "ahead of A" in by_what(found)["clock"].words


def test_a_hub_without_its_certificates_is_told_so_and_the_rest_is_checked(hub):
    (hub.pki / "root.crt").unlink()

    found = by_what(hub_findings(hub, now()))

    assert "root.crt missing" in found["certificates"].words
    assert found["disk"].state == "ok"


# --- a site ------------------------------------------------------------------------------


class Control(ControlServicer):
    def Report(self, request, context):  # noqa: N802
        self.heard = request
        return pb.ReportReply(clock=time.time() - 600, sentences=["hello"])


@pytest.fixture
def control(hub):
    """A control service with the hub's certificate, which asks for the site's."""
    files = Authorities.open(hub.pki).files
    server = grpc.server(ThreadPoolExecutor(2))
    service = Control()
    add_ControlServicer_to_server(service, server)
    credentials = grpc.ssl_server_credentials(
        [(files.server_key.read_bytes(), files.hub_chain.read_bytes())],
        files.sites_authorities.read_bytes(),
        require_client_auth=True,
    )
    server.add_secure_port(f"127.0.0.1:{hub.settings.port}", credentials)
    server.start()
    yield service
    server.stop(None).wait()


def test_a_site_whose_hub_is_away_is_told_so_and_its_clock_is_not_judged(site):
    found = list(site_findings(site, now()))

    assert failed(found) == {"way to the hub"}
    assert "not compared" in by_what(found)["clock"].words


def test_a_sites_clock_is_held_against_the_hubs(site, control):
    answer = ask_hub(site)

    assert answer.offset_s == pytest.approx(600, abs=5)
    assert answer.sentences == ("hello",)


@pytest.mark.parametrize("age", [1, 1000])
def test_the_doctor_reports_the_readiness_that_the_agent_reported(site, control, age):
    told = {"time": time.time() - age, "worker": {"ready": True}}
    (site.path / "run" / "agent.json").write_text(json.dumps(told))

    ask_hub(site)

    assert control.heard.ready == (age == 1)
    assert bool(control.heard.reason) == (age == 1000)


def test_a_site_is_told_what_was_broken(site):
    site.keys.tls_key.chmod(0o640)
    site.profile.write_text("name: A\ndatasets: []\n")

    found = list(site_findings(site, now() + timedelta(days=91)))

    assert failed(found) == {"keys", "profile", "certificate", "way to the hub"}


def test_a_certificate_of_another_site_is_told(site, hub):
    keys = site.keys
    issued = Authorities.open(hub.pki).issue_site(keys.csr("B"), "B", now=now())
    keys.certificate.write_text(issued.pem)

    words = [f.words for f in site_findings(site, now()) if f.state == "fail"]

    assert "is for B, not A" in words


# --- looking -----------------------------------------------------------------------------


def test_who_listens_on_a_port_is_seen():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        number = server.getsockname()[1]
        assert not look_at_port(number).holders
        server.listen()

        found = look_at_port(number)

    assert found.taken
    assert any("pytest" in holder or "python" in holder for holder in found.holders)


def test_a_key_that_is_not_there_is_no_entry(tmp_path):
    (tmp_path / "a").touch()

    paths = [tmp_path / "a", tmp_path / "b"]
    assert [e.path.name for e in entries_of(paths, tmp_path, top_of(tmp_path), ())] == ["a"]


def test_the_supervisors_status_is_read_if_there_is_one(tmp_path):
    assert programs_of(tmp_path) is None
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "status.json").write_text('{"programs": {"worker": {"pid": 1}}}')

    assert programs_of(tmp_path) == {"worker": {"pid": 1}}
    assert os.getpid() in alive()


# --- the command -------------------------------------------------------------------------


def call(*arguments):
    return CliRunner().invoke(APP, [str(argument) for argument in arguments])


def test_the_command_tells_a_hub_from_a_site_and_ends_with_4_where_something_fails(hub, site):
    (hub.pki / "sites.key").chmod(0o644)

    at_hub = call("--folder", hub.path, "--json")
    at_site = call("--folder", site.path, "--json")

    assert at_hub.exit_code == 4
    assert "revocation list" in {finding["what"] for finding in json.loads(at_hub.stdout)}
    assert "way to the hub" in {finding["what"] for finding in json.loads(at_site.stdout)}


def test_without_a_folder_the_machine_alone_is_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("FEDSEG_HUB", "FEDSEG_SITE"):
        monkeypatch.delenv(name, raising=False)

    done = call()

    assert done.exit_code == 0
    assert "Flower" in done.stdout


def test_a_folder_that_holds_neither_is_wrong_input(tmp_path):
    done = call("--folder", tmp_path)

    assert "holds neither a hub nor a site" in str(done.exception)


def test_before_joining_an_invitation_shows_whether_the_hub_is_reached(
    hub, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path / "hub" / "log")
    line = Invitation.new(
        hub.settings.address, "A", fingerprint=Authorities.open(hub.pki).fingerprint()
    ).encode()

    done = call("--json", "--invitation", line)

    assert done.exit_code == 4
    assert "cannot be reached" in json.loads(done.stdout)[-1]["words"]
