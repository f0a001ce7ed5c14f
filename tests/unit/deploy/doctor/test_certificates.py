"""Certificates and lists, made by the real authorities."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.doctor.certificates import chain, lifetime, names, revocation_list, root_key
from deploy.provision.authority import Authorities
from deploy.provision.certificates import build_root
from deploy.provision.pem_files import read_certificate

NOW = datetime(2027, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authorities") / "pki"
    return Authorities.create(folder, ["hub.example.org", "192.0.2.7"], NOW).files


@pytest.fixture(scope="module")
def hub_chain(files):
    return x509.load_pem_x509_certificates(files.hub_chain.read_bytes())


def test_a_chain_ends_at_the_root(files, hub_chain):
    stranger = build_root(ec.generate_private_key(ec.SECP384R1()), now=NOW)

    assert chain("hub", hub_chain, read_certificate(files.root)).state == "ok"
    assert chain("hub", hub_chain, stranger).state == "fail"
    assert chain("hub", hub_chain[::-1], read_certificate(files.root)).state == "fail"


@pytest.mark.parametrize(
    ("now", "state"),
    [
        (NOW - DAY, "fail"),
        (NOW, "ok"),
        (NOW + 340 * DAY, "warn"),
        (NOW + 366 * DAY, "fail"),
    ],
    ids=["not yet", "good", "ends soon", "expired"],
)
def test_the_end_of_a_certificate_is_told_in_time(hub_chain, now, state):
    assert lifetime("hub", hub_chain[0], now, warn_days=30, do="renew").state == state


@pytest.mark.parametrize(
    ("host", "state"),
    [
        ("hub.example.org", "ok"),
        ("HUB.example.org", "ok"),
        ("192.0.2.7", "ok"),
        ("192.0.2.8", "fail"),
        ("other.example.org", "fail"),
    ],
)
def test_the_hubs_certificate_holds_the_name_that_sites_use(hub_chain, host, state):
    assert names(hub_chain[0], host).state == state


@pytest.mark.parametrize(("days", "state"), [(0, "ok"), (23, "warn"), (30, "fail")])
def test_a_revocation_list_that_nobody_renews_is_told(files, days, state):
    assert (
        revocation_list(Authorities(files.folder).crl_expires(), NOW + days * DAY).state
        == state
    )


def test_the_roots_key_belongs_elsewhere():
    assert root_key(is_here=False).state == "ok"
    assert root_key(is_here=True).state == "warn"
