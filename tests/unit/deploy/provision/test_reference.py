"""OpenSSL as an independent judge of what we issue."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from deploy.provision.authority import Authorities

DAY = timedelta(days=1)


@pytest.fixture
def judge(openssl, pki, now, tmp_path):
    """Return a function that says None where OpenSSL accepts a chain, else its words."""

    def verdict(chain_pem, purpose="sslclient", *, at=now, root=pki.files.root, crl=True):
        for i, certificate in enumerate(x509.load_pem_x509_certificates(chain_pem)):
            (tmp_path / f"{i}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        words = ["verify", "-x509_strict", "-purpose", purpose, "-CAfile", root]
        words += ["-attime", int(at.timestamp()), "-untrusted", tmp_path / "1.pem"]
        words += ["-crl_check_all", "-CRLfile", pki.files.lists] if crl else []
        done = openssl(*words, tmp_path / "0.pem")
        return None if done.returncode == 0 else done.stderr

    return verdict


def test_a_site_is_accepted_as_a_client_and_as_nothing_else(judge, pki, keys, now):
    chain = pki.issue_site(keys.csr("x"), "site-a", now=now).pem.encode()

    assert judge(chain) is None
    for purpose in ("sslserver", "smimesign", "timestampsign"):
        assert "purpose" in judge(chain, purpose)


def test_the_hub_is_accepted_as_a_server_and_as_nothing_else(judge, pki):
    for path in (pki.files.hub_chain, pki.files.superlink_chain):
        assert judge(path.read_bytes(), "sslserver", crl=False) is None
        assert "purpose" in judge(path.read_bytes(), "sslclient", crl=False)


def test_a_certificate_counts_only_within_its_time(judge, pki, keys, now):
    chain = pki.issue_site(keys.csr("x"), "site-a", now=now, days=20).pem.encode()

    assert judge(chain, at=now - timedelta(minutes=9)) is None
    assert judge(chain, at=now + 20 * DAY - timedelta(seconds=2)) is None
    assert "not yet valid" in judge(chain, at=now - timedelta(minutes=11))
    assert "certificate has expired" in judge(chain, at=now + 20 * DAY)


def test_a_revoked_certificate_is_refused_and_others_are_not(judge, pki, keys, now):
    first, second = (pki.issue_site(keys.csr("x"), name, now=now) for name in ("a", "b"))

    pki.revoke(first.serial, now)

    assert "certificate revoked" in judge(first.pem.encode())
    assert judge(second.pem.encode()) is None


def test_an_expired_list_closes_the_door(judge, pki, keys, now):
    chain = pki.issue_site(keys.csr("x"), "site-a", now=now).pem.encode()

    assert judge(chain, at=now + 29 * DAY) is None
    assert "CRL has expired" in judge(chain, at=now + 31 * DAY)
    pki.write_crl(now + 31 * DAY)
    assert judge(chain, at=now + 31 * DAY) is None


def test_another_hubs_sites_are_strangers(judge, pki, keys, now, tmp_path):
    other = Authorities.create(tmp_path / "other", [], now)
    chain = other.issue_site(keys.csr("x"), "site-a", now=now).pem.encode()

    assert "unable to get" in judge(chain)


def test_renewed_authorities_leave_what_they_issued_valid(judge, pki, keys, now):
    late = now + 4 * 365 * DAY
    chain = pki.issue_site(keys.csr("x"), "site-a", now=late).pem.encode()
    leaf, old_issuer = x509.load_pem_x509_certificates(chain)

    pki.renew_intermediates(late)
    pki.write_crl(late)

    renewed, _root = x509.load_pem_x509_certificates(pki.files.sites_authorities.read_bytes())
    assert renewed != old_issuer
    assert judge(chain, at=late) is None
    mixed = b"".join(c.public_bytes(Encoding.PEM) for c in (leaf, renewed))
    assert judge(mixed, at=late) is None
    assert pki.intermediates_expire() == (late + 5 * 365 * DAY).replace(microsecond=0)


def test_openssl_reads_the_lists_as_we_wrote_them(openssl, pki, now):
    pki.revoke("0ABC", now)

    done = openssl("crl", "-in", pki.files.lists, "-noout", "-text")

    assert "X509v3 CRL Number: \n                2" in done.stdout
    assert "Serial Number: 0ABC" in done.stdout
    assert "Next Update: Mar 31 12:00:00 2026 GMT" in done.stdout
    assert "Signature Algorithm: ecdsa-with-SHA384" in done.stdout
