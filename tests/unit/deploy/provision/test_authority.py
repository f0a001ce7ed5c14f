import ipaddress
import json
import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import InputError, RefusedError, RunError
from deploy.provision.authority import Authorities
from deploy.provision.site_keys import SiteKeys

DAY = timedelta(days=1)


def load(pem):
    return x509.load_pem_x509_certificate(pem.encode() if isinstance(pem, str) else pem)


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def request(key=None, *, common="x", extensions=(), algorithm=hashes.SHA256()):  # noqa: B008
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    for value in extensions:
        builder = builder.add_extension(value, critical=True)
    signed = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), algorithm)
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def lists(pki):
    parts = pki.files.lists.read_text().split("-----END X509 CRL-----\n")[:-1]
    pems = [f"{part}-----END X509 CRL-----\n".encode() for part in parts]
    return [x509.load_pem_x509_crl(pem) for pem in pems]


def number(crl):
    return extension(crl, x509.CRLNumber).value.crl_number


def take_root_offline(pki):
    shutil.rmtree(pki.files.root_key.parent)


def test_keys_are_for_their_owner_only_whatever_the_umask(tmp_path, now):
    old = os.umask(0)
    try:
        pki = Authorities.create(tmp_path / "pki", [], now)
    finally:
        os.umask(old)

    folders = [pki.files.folder, pki.files.root_key.parent]
    keys = list(pki.files.folder.rglob("*.key"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    assert sorted(path.name for path in keys) == [
        "hub.key",
        "root.key",
        "server.key",
        "sites.key",
        "superlink.key",
    ]
    assert not list(tmp_path.rglob("*.part"))


def test_authorities_are_never_overwritten(pki, now):
    before = {path: path.read_bytes() for path in pki.files.folder.rglob("*.*")}

    with pytest.raises(InputError, match="is not empty, and keys are never overwritten"):
        Authorities.create(pki.files.folder, [], now)

    assert {path: path.read_bytes() for path in pki.files.folder.rglob("*.*")} == before


def test_a_crash_leaves_no_half_of_an_authority(tmp_path, now, monkeypatch):
    def crash(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Authorities, "write_crl", crash)

    with pytest.raises(KeyboardInterrupt):
        Authorities.create(tmp_path / "pki", [], now)

    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled(tmp_path, now):
    (tmp_path / "pki").mkdir()

    Authorities.create(tmp_path / "pki", [], now)

    assert Authorities.open(tmp_path / "pki").fingerprint()


@pytest.mark.parametrize(
    "name",
    [
        "https://hub.org",
        "hub.org:443",
        "*.hub.org",
        "hub..org",
        "-hub.org",
        "hub.org\n",
        "192.0.2.256",
        "hüb.org",
        "",
        "a" * 64 + ".org",
    ],
)
def test_a_hub_name_that_is_none_is_told_before_anything_is_made(tmp_path, now, name):
    with pytest.raises(InputError, match="is neither a host name nor an IP address"):
        Authorities.create(tmp_path / "pki", [name], now)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["root.crt", "sites.key", "hub.crt", "revoked.json"])
def test_an_incomplete_folder_is_not_opened(pki, missing):
    (pki.files.folder / missing).unlink()

    with pytest.raises(InputError, match=rf"holds no certificate authorities, {missing}"):
        Authorities.open(pki.files.folder)


def test_the_servers_have_the_hubs_names_and_loopback(pki, now):
    public, superlink = (
        load(path.read_bytes()) for path in (pki.files.hub_chain, pki.files.superlink_chain)
    )

    names = extension(public, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["hub.example.org", "localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address(a) for a in ("192.0.2.7", "2001:db8::7", "127.0.0.1")
    ]
    names = extension(superlink, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert pki.server_expires() == (now + 365 * DAY).replace(microsecond=0)


def test_the_fingerprint_is_that_of_the_root_in_the_hubs_chain(pki):
    chain = x509.load_pem_x509_certificates(pki.files.hub_chain.read_bytes())

    assert len(chain) == 3
    assert chain[2].fingerprint(hashes.SHA256()).hex() == pki.fingerprint()


def test_a_site_gets_its_own_name_and_nothing_of_what_it_asked_for(pki, now):
    wishes = [
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.SubjectAlternativeName([x509.DNSName("hub.example.org")]),
    ]
    key = ec.generate_private_key(ec.SECP384R1())

    issued = pki.issue_site(request(key, common="site-b", extensions=wishes), "site-a", now=now)

    leaf, issuer = x509.load_pem_x509_certificates(issued.pem.encode())
    assert leaf.subject.rfc4514_string() == "CN=site-a,O=fedseg"
    assert leaf.public_key() == key.public_key()
    assert not extension(leaf, x509.BasicConstraints).value.ca
    assert list(extension(leaf, x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    usage = extension(leaf, x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    with pytest.raises(x509.ExtensionNotFound):
        extension(leaf, x509.SubjectAlternativeName)
    leaf.verify_directly_issued_by(issuer)


def test_a_certificate_is_valid_from_a_little_earlier_for_as_long_as_asked(pki, now):
    issued = pki.issue_site(request(), "site-a", now=now, days=7)

    whole = now.replace(microsecond=0)
    assert (issued.not_before, issued.not_after) == (
        whole - timedelta(minutes=10),
        whole + 7 * DAY,
    )
    assert int(issued.serial, 16) == load(issued.pem).serial_number
    assert len(issued.serial) % 2 == 0
    assert issued.serial == issued.serial.upper()


def swap_key(pem):
    """Ask for a key that the sender does not hold."""
    victim = ec.generate_private_key(ec.SECP256R1()).public_key()
    own = x509.load_pem_x509_csr(pem.encode())
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    der = own.public_bytes(serialization.Encoding.DER)
    swapped = der.replace(own.public_key().public_bytes(*form), victim.public_bytes(*form))
    assert swapped != der
    again = x509.load_der_x509_csr(swapped)
    return again.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: swap_key(request()), "not signed by the key that it names"),
        (lambda: request(rsa.generate_private_key(65537, 2048)), "key is of another kind"),
        (lambda: request(ec.generate_private_key(ec.SECP521R1())), "key is secp521r1"),
        (lambda: request(ec.generate_private_key(ec.SECP256K1())), "key is secp256k1"),
        (
            lambda: request(ed25519.Ed25519PrivateKey.generate(), algorithm=None),
            "key is of another kind",
        ),
        (lambda: "", "cannot be read"),
        (lambda: "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", "cannot be read"),
        (lambda: request()[:200], "cannot be read"),
        (lambda: "\udcff\u2603", "cannot be read"),
    ],
    ids=["other's key", "RSA", "P-521", "K-256", "Ed25519", "empty", "half", "cut", "letters"],
)
def test_a_request_that_policy_does_not_allow_is_refused(pki, now, make, why):
    with pytest.raises(RefusedError, match=why):
        pki.issue_site(make(), "site-a", now=now)


@pytest.mark.parametrize(
    "site", ["", "a b", "a,O=evil", "../a", "ä", "a" * 65, "a\n", "a/CN=b", "-a", "*"]
)
def test_a_site_without_a_proper_name_gets_no_certificate(pki, now, site):
    with pytest.raises(InputError, match="is no name of a site"):
        pki.issue_site(request(), site, now=now)


@pytest.mark.parametrize("days", [0, -1, 398])
def test_a_lifetime_is_bounded(pki, now, days):
    with pytest.raises(InputError, match="days: must be 1 to 397"):
        pki.issue_site(request(), "site-a", now=now, days=days)


def test_nothing_outlives_its_issuer(pki, now):
    late = now + 5 * 365 * DAY - 3 * DAY

    issued = pki.issue_site(request(), "site-a", now=late)

    assert issued.not_after == pki.intermediates_expire()
    with pytest.raises(RunError, match="authority 'fedseg sites' expired on 2031-02-28"):
        pki.issue_site(request(), "site-a", now=late + 3 * DAY)


def test_every_list_has_a_greater_number_and_holds_all_that_was_revoked(pki, now):
    first, second = (pki.issue_site(request(), name, now=now).serial for name in "ab")
    seen = [number(lists(pki)[0])]

    for serial in (first, second.lower(), first):
        pki.revoke(serial, now)
        seen.append(number(lists(pki)[0]))
    Authorities.open(pki.files.folder).write_crl(now + DAY)

    sites, root = lists(pki)
    assert seen == [1, 2, 3, 4]
    assert (number(sites), number(root)) == (5, 5)
    assert {entry.serial_number for entry in sites} == {int(first, 16), int(second, 16)}
    assert list(root) == []


def test_revocations_at_the_same_time_are_all_kept(pki, now):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: pki.revoke(f"{n:X}", now), range(1, 17)))

    assert {entry.serial_number for entry in lists(pki)[0]} == set(range(1, 17))


def test_a_second_revocation_does_not_change_the_date_of_the_first(pki, now):
    pki.revoke("0A", now)
    pki.revoke("0a", now + DAY)

    (entry,) = lists(pki)[0]
    assert entry.revocation_date_utc == now.replace(microsecond=0)


@pytest.mark.parametrize("serial", ["", "xyz", "0", "-1", "F" * 41, "0x"])
def test_what_is_no_serial_number_is_told(pki, now, serial):
    with pytest.raises(InputError, match="expected hexadecimal digits"):
        pki.revoke(serial, now)

    assert number(lists(pki)[0]) == 1


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"number": 1}', '{"number": 1, "revoked": {"0A": "soon"}}'],
    ids=["empty", "no fields", "a list", "no serials", "no date"],
)
def test_a_damaged_register_brings_nobody_back(pki, now, text):
    before = pki.files.lists.read_bytes()
    pki.files.register.write_text(text)

    with pytest.raises(RunError, match="without it revoked sites would come back"):
        pki.write_crl(now)

    assert pki.files.lists.read_bytes() == before


def test_the_first_list_to_expire_counts(pki, now):
    assert pki.crl_expires() == (now + 30 * DAY).replace(microsecond=0)

    take_root_offline(pki)
    pki.write_crl(now + 350 * DAY)

    assert pki.crl_expires() == (now + 365 * DAY).replace(microsecond=0)


def test_damaged_lists_are_told(pki):
    pki.files.lists.write_bytes(pki.files.root_list.read_bytes())

    with pytest.raises(RunError, match=r"crl\.pem: is damaged; write it again"):
        pki.crl_expires()


def test_daily_work_goes_on_while_the_root_is_offline(pki, now):
    take_root_offline(pki)
    root_list = pki.files.root_list.read_bytes()
    offline = Authorities.open(pki.files.folder)

    issued = offline.issue_site(request(), "site-a", now=now)
    offline.revoke(issued.serial, now + 364 * DAY)
    offline.renew_server(now + 200 * DAY)

    sites, _root = lists(pki)
    assert [entry.serial_number for entry in sites] == [int(issued.serial, 16)]
    assert pki.files.root_list.read_bytes() == root_list
    assert offline.fingerprint() == pki.fingerprint()


def test_what_needs_the_root_says_what_to_fetch(pki, now):
    take_root_offline(pki)

    with pytest.raises(InputError, match="root's key is offline; fetch the folder 'root'"):
        pki.renew_intermediates(now)
    with pytest.raises(InputError, match="root's key is offline; fetch the folder 'root'"):
        pki.revoke("0A", now + 366 * DAY)

    # the revocation is not forgotten with the failure
    assert "0A" in json.loads(pki.files.register.read_text())["revoked"]


def test_a_renewed_server_keeps_names_and_key(pki, now):
    old = load(pki.files.hub_chain.read_bytes())

    pki.renew_server(now + 300 * DAY)

    new = load(pki.files.hub_chain.read_bytes())
    kinds = (x509.SubjectAlternativeName, x509.ExtendedKeyUsage, x509.KeyUsage)
    assert [extension(new, k) for k in kinds] == [extension(old, k) for k in kinds]
    assert new.public_key() == old.public_key()
    assert new.serial_number != old.serial_number
    assert pki.server_expires() == (now + 665 * DAY).replace(microsecond=0)


def test_a_hub_that_moves_gets_its_new_names(pki, now):
    pki.renew_server(now, hub_names=["new.example.org"])

    names = extension(load(pki.files.hub_chain.read_bytes()), x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["new.example.org", "localhost"]


def test_a_full_disk_is_told_and_leaves_no_key_behind(tmp_path, now, monkeypatch):
    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(RunError, match="No space left on device"):
        SiteKeys.create(tmp_path / "keys")

    assert list(tmp_path.iterdir()) == []
