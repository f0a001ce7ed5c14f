import shutil
import ssl
import stat
import subprocess
from base64 import b64encode
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.primitives.asymmetric import generate_key_pairs
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from common.errors import InputError, RefusedError, RunError
from deploy.provision.authority import Authorities
from deploy.provision.public_keys import (
    as_der,
    node_header,
    node_header_of,
    node_key,
    request_key,
)
from deploy.provision.site_keys import SiteKeys
from deploy.provision.tokens import short_code

DAY = timedelta(days=1)


def enrol(keys, pki, now, site="site-a", **options):
    issued = pki.issue_site(keys.csr(site), site, now=now, **options)
    keys.install(issued.pem, site=site, now=now, root_pem=pki.files.root.read_bytes())
    return issued


def is_pair(keys):
    leaf = x509.load_pem_x509_certificate(keys.certificate.read_bytes())
    key = serialization.load_pem_private_key(keys.tls_key.read_bytes(), None)
    return leaf.public_key() == key.public_key()


def test_all_is_for_its_owner_only(keys, pki, now):
    enrol(keys, pki, now)
    keys.new_tls_key("site-a")

    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in keys.folder.iterdir()}
    assert stat.S_IMODE(keys.folder.stat().st_mode) == 0o700
    names = "audit.key certificate.pem node.key node.key.pub root.crt tls.key tls.key.next"
    assert modes == dict.fromkeys(names.split(), 0o600)


def test_keys_are_never_overwritten(keys):
    before = {p: p.read_bytes() for p in keys.folder.iterdir()}

    with pytest.raises(InputError, match="keys are never overwritten"):
        SiteKeys.create(keys.folder)

    assert {p: p.read_bytes() for p in keys.folder.iterdir()} == before


def test_a_file_in_the_place_of_the_folder_is_not_replaced(tmp_path):
    (tmp_path / "keys").write_text("notes")

    with pytest.raises(InputError, match="keys are never overwritten"):
        SiteKeys.create(tmp_path / "keys")


def test_a_folder_that_may_not_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(RunError, match="keys: cannot be made"):
        SiteKeys.create(tmp_path / "file" / "keys")


@pytest.mark.parametrize("missing", ["tls.key", "node.key", "audit.key"])
def test_an_incomplete_folder_is_not_opened(keys, missing):
    (keys.folder / missing).unlink()

    with pytest.raises(InputError, match=rf"holds no keys of a site, {missing} missing"):
        SiteKeys.open(keys.folder)


def test_ssh_keygen_reads_the_node_key_as_its_own(keys):
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    words = ["ssh-keygen", "-y", "-P", "", "-f", str(keys.node_key)]

    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout

    assert shown.split()[:2] == keys.node_public_ssh().split()
    assert keys.node_public.read_text() == keys.node_public_ssh() + "\n"
    assert shown.startswith("ecdsa-sha2-nistp384 ")


def test_the_node_header_is_what_flower_sends(keys):
    private = serialization.load_ssh_private_key(keys.node_key.read_bytes(), None)
    sent = {}

    class Context:
        class request:  # noqa: N801
            headers = sent

    NodeAuthHttpInterceptor(private, private.public_key()).intercept(Context, lambda c: None)

    assert keys.node_header() == sent[FLEET_HTTP_PUBLIC_KEY_HEADER]
    assert node_header_of(keys.node_public_ssh()) == keys.node_header()


def test_any_key_of_flowers_own_making_has_the_same_header():
    _private, public = generate_key_pairs()
    pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    assert node_header(public) == b64encode(pem).decode()


@pytest.mark.parametrize("text", ["", "ssh-rsa AAAA", "ecdsa-sha2-nistp384 x", "\u2603"])
def test_what_is_no_node_key_is_refused(text):
    with pytest.raises(RefusedError, match="node key: cannot be read"):
        node_key(text)


def test_a_node_key_of_another_kind_is_refused(keys):
    audit = serialization.load_pem_private_key(keys.audit_key.read_bytes(), None)
    line = audit.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )

    with pytest.raises(RefusedError, match="node key: the key is of another kind"):
        node_key(line.decode())


def test_the_audit_key_can_be_checked_by_its_public_half(keys):
    private = serialization.load_pem_private_key(keys.audit_key.read_bytes(), None)

    assert private.public_key().public_bytes_raw().hex() == keys.audit_public()


def test_hub_and_site_read_the_same_code_to_each_other(keys, pki):
    at_the_hub = short_code(
        as_der(request_key(keys.csr("site-a"))),
        as_der(node_key(keys.node_public_ssh())),
        pki.fingerprint(),
    )

    assert keys.short_code(pki.fingerprint()) == at_the_hub
    assert SiteKeys.create(keys.folder.with_name("b")).short_code(pki.fingerprint()) != (
        at_the_hub
    )


def test_an_enrolled_site_can_call_its_hub(keys, pki, now):
    assert not keys.is_enrolled
    with pytest.raises(InputError, match="has issued no certificate yet"):
        keys.client_context()

    issued = enrol(keys, pki, now)

    assert SiteKeys.open(keys.folder).is_enrolled
    assert keys.expires() == issued.not_after
    assert keys.certificate.read_text() == issued.pem
    context = keys.client_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(context.get_ca_certs()) == 1


def foreign_root(pki, keys, now, tmp_path):
    return Authorities.create(tmp_path / "o", [], now).issue_site(keys.csr("a"), "a", now=now)


def other_key(pki, keys, now, tmp_path):
    return pki.issue_site(SiteKeys.create(tmp_path / "k").csr("a"), "a", now=now)


def other_name(pki, keys, now, tmp_path):
    return pki.issue_site(keys.csr("a"), "b", now=now)


def too_early(pki, keys, now, tmp_path):
    return pki.issue_site(keys.csr("a"), "a", now=now + timedelta(minutes=11))


def too_late(pki, keys, now, tmp_path):
    return pki.issue_site(keys.csr("a"), "a", now=now - DAY, days=1)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (foreign_root, "was not issued by the hub that this site trusts"),
        (other_key, "is for another key than this site's"),
        (other_name, "is for 'b', expected 'a'"),
        (too_early, "this machine's clock says 2026-03-01 12:00; set the clock"),
        (too_late, "this machine's clock says 2026-03-01 12:00; set the clock"),
    ],
    ids=lambda value: getattr(value, "__name__", "").replace("_", " "),
)
def test_a_certificate_that_is_not_for_this_site_now_is_refused(
    pki, keys, now, tmp_path, make, why
):
    issued = make(pki, keys, now, tmp_path)

    with pytest.raises(RefusedError, match=why):
        keys.install(issued.pem, site="a", now=now, root_pem=pki.files.root.read_bytes())

    assert not keys.certificate.exists()
    assert not keys.root.exists()


def test_a_leaf_without_its_issuer_or_with_much_else_is_refused(pki, keys, now):
    issued = pki.issue_site(keys.csr("a"), "a", now=now)
    root = pki.files.root.read_bytes()
    half = issued.pem[: issued.pem.index("-----END") + 26]

    for chain in (half, issued.pem * 2, root.decode(), "", "x"):
        with pytest.raises(RefusedError, match="certificate: "):
            keys.install(chain, site="a", now=now, root_pem=root)


def test_a_site_does_not_change_its_hub(pki, keys, now, tmp_path):
    enrol(keys, pki, now, "a")
    other = Authorities.create(tmp_path / "other", [], now)
    issued = other.issue_site(keys.csr("a"), "a", now=now)

    with pytest.raises(RefusedError, match="the site trusts another hub already"):
        keys.install(issued.pem, site="a", now=now, root_pem=other.files.root.read_bytes())
    with pytest.raises(RefusedError, match="was not issued by the hub that this site trusts"):
        keys.install(issued.pem, site="a", now=now)


def test_without_a_root_nothing_can_be_installed(pki, keys, now):
    with pytest.raises(InputError, match=r"root\.crt: cannot be read"):
        keys.install(pki.issue_site(keys.csr("a"), "a", now=now).pem, site="a", now=now)


def test_the_old_key_serves_until_the_new_certificate_came(pki, keys, now):
    enrol(keys, pki, now)
    old = keys.tls_key.read_bytes()

    asked = keys.new_tls_key("site-a")
    assert keys.new_tls_key("site-a") != ""
    assert request_key(asked) == request_key(keys.new_tls_key("site-a"))
    assert keys.tls_key.read_bytes() == old
    assert is_pair(keys)

    issued = pki.issue_site(asked, "site-a", now=now + 60 * DAY)
    keys.install(issued.pem, site="site-a", now=now + 60 * DAY)

    assert keys.tls_key.read_bytes() != old
    assert is_pair(keys)
    assert not keys.next_tls_key.exists()
    assert keys.expires() == issued.not_after
    keys.client_context()


def test_a_certificate_for_the_old_key_leaves_the_renewal_open(pki, keys, now):
    enrol(keys, pki, now)
    keys.new_tls_key("site-a")

    enrol(keys, pki, now + DAY)

    assert is_pair(keys)
    assert keys.next_tls_key.exists()


def crash(_keys):
    raise KeyboardInterrupt


def test_a_crash_while_switching_over_is_mended_when_the_keys_are_opened(
    pki, keys, now, monkeypatch
):
    enrol(keys, pki, now)
    issued = pki.issue_site(keys.new_tls_key("site-a"), "site-a", now=now)
    with monkeypatch.context() as patch:
        patch.setattr(SiteKeys, "_switch", crash)
        with pytest.raises(KeyboardInterrupt):
            keys.install(issued.pem, site="site-a", now=now)
    assert not is_pair(keys)

    again = SiteKeys.open(keys.folder)

    assert is_pair(again)
    again.client_context()


def test_two_processes_may_switch_over_at_once(pki, keys, now, monkeypatch):
    enrol(keys, pki, now)
    issued = pki.issue_site(keys.new_tls_key("site-a"), "site-a", now=now)
    replace = Path.replace

    def twice(path, target):
        replace(path, target)
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(
            Path, "replace", lambda p, t: (twice if "next" in p.name else replace)(p, t)
        )
        keys.install(issued.pem, site="site-a", now=now)

    assert is_pair(keys)


@pytest.mark.parametrize(("day", "due"), [(0, False), (59, False), (61, True), (200, True)])
def test_a_renewal_is_due_in_the_last_third(pki, keys, now, day, due):
    enrol(keys, pki, now, days=90)

    assert keys.renew_due(now + day * DAY) is due


def test_a_damaged_file_is_told_by_its_name(keys, pki, now):
    enrol(keys, pki, now)
    keys.certificate.write_text("x")
    with pytest.raises(InputError, match=r"certificate\.pem: is no certificate"):
        keys.expires()

    for content in (keys.audit_key.read_bytes(), b"x"):
        keys.tls_key.write_bytes(content)
        with pytest.raises(InputError, match=r"tls\.key: is no elliptic-curve key"):
            keys.csr("site-a")


@pytest.mark.parametrize("content", ["x", "ed25519"])
def test_a_node_key_that_flower_could_not_use_is_told(keys, content):
    audit = serialization.load_pem_private_key(keys.audit_key.read_bytes(), None)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH)
    pem = audit.private_bytes(*form, serialization.NoEncryption())
    keys.node_key.write_bytes(b"x" if content == "x" else pem)

    with pytest.raises(InputError, match=r"node\.key: is no elliptic-curve key"):
        keys.node_header()


def test_the_tls_key_is_a_p256_key_that_openssl_reads(openssl, keys):
    done = openssl("pkey", "-in", keys.tls_key, "-noout", "-text")

    assert "prime256v1" in done.stdout
    assert isinstance(request_key(keys.csr("a")).curve, ec.SECP256R1)
