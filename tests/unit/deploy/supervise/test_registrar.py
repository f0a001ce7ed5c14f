"""The registrar with a clock of its own, real authorities, and a SuperLink and a proxy that are not there."""

import json
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from common.errors import RefusedError, RunError
from deploy.provision.site_keys import SiteKeys
from deploy.supervise import registrar as module
from deploy.supervise.desk import admit_site, invite_site, make_hub, revoke_site
from deploy.supervise.hub_folder import HubFolder, HubSettings
from deploy.supervise.joining import code_of_request
from deploy.supervise.registrar import Registrar, side_by_side
from server.registry import ADMITTED, REVOKED, REVOKING, WAITING, WANTED, SiteRow


class Flower:
    """What the registrar asked of the SuperLink."""

    def __init__(self):
        self.asked = []

    def register(self, key, site):
        self.asked.append(("register", site))
        return str(len(self.asked))

    def unregister(self, node):
        self.asked.append(("unregister", node))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "reload", lambda _: None)
    flower = Flower()
    monkeypatch.setattr(HubFolder, "flower", property(lambda _: flower))
    return make_hub(tmp_path / "hub", HubSettings(address="localhost:1443", listen="127.0.0.1"))


@pytest.fixture
def clock():
    return SimpleNamespace(now=datetime.now(UTC))


@pytest.fixture
def registrar(hub, clock):
    return Registrar(hub, lambda: clock.now)


def waiting(hub, tmp_path, site="A"):
    """Bring a site as far as it comes without the coordinator."""
    invite_site(hub, site, 7)
    keys = SiteKeys.create(tmp_path / f"keys-{site}")
    request, node = keys.csr(site), keys.node_public_ssh()
    code = code_of_request(request, node, hub.root.read_text())
    hub.registry.change(
        SiteRow, {"name": site}, state=WAITING, request_pem=request, node_key=node, code=code
    )
    return keys, code


def admitted(hub, registrar, tmp_path, monkeypatch, site="A"):
    keys, code = waiting(hub, tmp_path, site)
    monkeypatch.setattr("deploy.supervise.desk.time.sleep", lambda _: registrar.look())
    admit_site(hub, site, code)
    return keys


def test_a_wanted_site_gets_certificate_node_and_binding(hub, registrar, tmp_path, monkeypatch):
    admitted(hub, registrar, tmp_path, monkeypatch)

    row = hub.registry.site("A")
    assert (row.state, row.node_id) == (ADMITTED, "1")
    assert row.certificate_pem.count("BEGIN CERTIFICATE") == 2
    assert "CN=A,O=fedseg" in (hub.nginx / "bind.map").read_text()


def test_another_code_admits_nobody(hub, registrar, tmp_path):
    _, code = waiting(hub, tmp_path)

    with pytest.raises(RefusedError, match="somebody else may have used the invitation"):
        admit_site(hub, "A", "AAAA-AAAA" if code != "AAAA-AAAA" else "BBBB-BBBB")
    assert hub.registry.site("A").state == WAITING


def test_the_code_may_be_typed_as_it_is_heard(hub, registrar, tmp_path, monkeypatch):
    _, code = waiting(hub, tmp_path)
    monkeypatch.setattr("deploy.supervise.desk.time.sleep", lambda _: registrar.look())

    admit_site(hub, "A", f" {code.lower().replace('-', ' ')} ")

    assert hub.registry.site("A").state == ADMITTED


def test_a_revoked_site_is_on_the_list_unbound_and_unregistered(
    hub, registrar, tmp_path, monkeypatch
):
    admitted(hub, registrar, tmp_path, monkeypatch)
    admitted(hub, registrar, tmp_path, monkeypatch, "B")

    revoke_site(hub, "A")

    assert hub.registry.site("A").state == REVOKED
    bound = (hub.nginx / "bind.map").read_text()
    assert "CN=A," not in bound
    assert "CN=B," in bound
    assert hub.flower.asked[-1] == ("unregister", "1")
    assert len(json.loads((hub.pki / "revoked.json").read_text())["revoked"]) == 1


def test_every_certificate_of_a_site_is_revoked_with_it(hub, registrar, tmp_path, monkeypatch):
    keys = admitted(hub, registrar, tmp_path, monkeypatch)
    hub.registry.change(SiteRow, {"name": "A"}, renewal_pem=keys.new_tls_key("A"))
    registrar.look()
    row = hub.registry.site("A")
    assert (row.renewal_pem, len(row.serial.split())) == ("", 2)

    revoke_site(hub, "A")

    assert len(json.loads((hub.pki / "revoked.json").read_text())["revoked"]) == 2


def test_lists_and_certificates_are_renewed_before_they_end(hub, registrar, clock):
    before = registrar._authorities.crl_expires()
    registrar.look()
    assert registrar._authorities.crl_expires() == before

    clock.now += timedelta(days=25)
    registrar.look()
    assert registrar._authorities.crl_expires() > clock.now + timedelta(days=25)

    clock.now += timedelta(days=290)
    registrar.look()
    assert registrar._authorities.server_expires() > clock.now + timedelta(days=300)


def test_a_site_is_admitted_only_when_the_proxy_knows_it(hub, registrar, tmp_path, monkeypatch):
    waiting(hub, tmp_path)
    hub.registry.change(SiteRow, {"name": "A"}, state=WANTED)
    reloaded = []

    def no_proxy(_):
        raise RunError("nginx: does not run")

    monkeypatch.setattr(module, "reload", no_proxy)
    with pytest.raises(RunError, match="does not run"):
        registrar.look()
    assert (hub.registry.site("A").state, hub.registry.site("A").certificate_pem) == (
        WANTED,
        "",
    )

    monkeypatch.setattr(module, "reload", reloaded.append)
    registrar.look()

    assert hub.registry.site("A").state == ADMITTED
    assert reloaded == [hub.nginx]
    assert hub.flower.asked == [("register", "A")]  # not a second time: the key would be in use


def test_a_site_is_revoked_before_another_is_admitted(hub, registrar, tmp_path, monkeypatch):
    admitted(hub, registrar, tmp_path, monkeypatch)
    waiting(hub, tmp_path, "B")
    hub.registry.change(SiteRow, {"name": "B"}, state=WANTED)
    hub.registry.change(SiteRow, {"name": "A"}, state=REVOKING)

    registrar.look()

    assert hub.flower.asked[-2:] == [("unregister", "1"), ("register", "B")]


def test_sites_are_looked_after_while_a_run_is_being_stopped(monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    stop, looks = threading.Event(), []

    def slow():
        stop.wait(20)

    def quick():
        looks.append(1)
        if len(looks) == 3:
            stop.set()

    side_by_side([quick], [slow], stop)

    assert len(looks) == 3


@pytest.mark.parametrize("broken", ["first", "second"])
def test_where_one_side_breaks_both_end(monkeypatch, broken):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)

    def breaks():
        raise ZeroDivisionError

    duties = {"first": [lambda: None], "second": [lambda: None]}
    duties[broken] = [breaks]

    with pytest.raises(ZeroDivisionError):
        side_by_side(duties["first"], duties["second"], threading.Event())
