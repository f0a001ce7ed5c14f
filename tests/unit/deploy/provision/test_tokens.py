import hashlib
import string
from base64 import urlsafe_b64encode

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from common.errors import InputError
from common.messages import SITE_NAME
from deploy.provision.tokens import (
    PREFIX,
    Invitation,
    matches,
    secret_hash,
    short_code,
    split_address,
)
from tests.support.strategies import checked

FINGERPRINT = hashlib.sha256(b"root").hexdigest()
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
hosts = st.from_regex(r"[A-Za-z0-9._-]{1,60}", fullmatch=True) | st.ip_addresses(v=6).map(
    lambda ip: f"[{ip}]"
)
invitations = st.builds(
    Invitation,
    address=st.builds("{}:{}".format, hosts, st.integers(1, 65535)),
    site=st.from_regex(SITE_NAME, fullmatch=True),
    fingerprint=st.binary(min_size=32, max_size=32).map(bytes.hex),
    secret=st.binary(min_size=16, max_size=16),
)


def invitation(**changes):
    fields = {
        "address": "federation.radiology.example.org:8443",
        "site": "university-hospital",
        "fingerprint": FINGERPRINT,
        "secret": bytes(range(16)),
    }
    return Invitation(**fields | changes)


@checked
@given(invitations)
def test_an_invitation_comes_back_as_it_was(sent):
    assert Invitation.decode(sent.encode()) == sent


@checked
@given(invitations, st.data())
def test_one_wrong_letter_is_told_as_a_typing_error(sent, data):
    line = sent.encode()
    place = data.draw(st.integers(0, len(line) - 1))
    letter = data.draw(st.characters(codec="utf-8"))
    assume(letter != line[place] and not letter.isspace())

    with pytest.raises(InputError, match=r"typing error|must begin with"):
        Invitation.decode(line[:place] + letter + line[place + 1 :])


def test_every_wrong_last_letter_is_noticed_though_its_bits_are_spare():
    for site in ("a", "ab", "abc"):
        line = invitation(site=site).encode()
        for letter in set(string.ascii_letters + string.digits + "-_") - {line[-1]}:
            with pytest.raises(InputError, match="typing error"):
                Invitation.decode(line[:-1] + letter)


@checked
@given(invitations, st.data())
def test_a_missing_a_doubled_or_two_swapped_letters_are_noticed(sent, data):
    line = sent.encode()
    place = data.draw(st.integers(len(PREFIX), len(line) - 2))
    swapped = line[:place] + line[place + 1] + line[place] + line[place + 2 :]
    assume(swapped != line)

    for wrong in (line[:place] + line[place + 1 :], line[:place] + line[place:] * 2, swapped):
        with pytest.raises(InputError, match="typing error"):
            Invitation.decode(wrong)


def test_an_invitation_is_one_short_line_of_letters_that_mail_does_not_change():
    line = invitation().encode()

    assert len(line) < 160
    assert len(invitation(address="hub.example.org:443", site="site-a").encode()) < 120
    assert set(line.removeprefix(PREFIX)) <= set(string.ascii_letters + string.digits + "-_")


def test_mail_may_break_the_line():
    line = invitation().encode()

    assert Invitation.decode(f"  {line[:40]}\r\n  {line[40:]} \n") == invitation()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "must begin with 'fedseg1.'"),
        ("fedseg2.AAAA", "same version of fedseg"),
        (invitation().encode().removeprefix(PREFIX), "must begin with 'fedseg1.'"),
        (PREFIX, "typing error"),
        (PREFIX + "AAAA", "typing error"),
        (PREFIX + "=" * 80, "typing error"),
        (invitation().encode() + "=", "typing error"),
        (invitation().encode() + ".", "typing error"),
        (invitation().encode() * 2, "typing error"),
    ],
)
def test_what_is_no_invitation_is_told(line, why):
    with pytest.raises(InputError, match=why):
        Invitation.decode(line)


def sealed(content):
    """Make a line of any content, as anybody can."""
    check = hashlib.sha256(PREFIX.encode() + content).digest()[:4]
    return PREFIX + urlsafe_b64encode(content + check).decode().rstrip("=")


@pytest.mark.parametrize(
    "rest",
    [
        b"\x00",
        b"\x05hub:1",
        b"\xff" + b"hub:1a",
        b"\x05hub:0site",
        b"\x05h\xffb:1site",
        b"\x05hub:1s\xc3\xa9",
        b"\x05hub:1../a",
        b"\x0ahttp://h:1a",
    ],
)
def test_a_line_made_with_malice_is_refused_like_any_other(rest):
    with pytest.raises(InputError, match=r"address|site"):
        Invitation.decode(sealed(bytes(48) + rest))


def test_a_new_invitation_has_a_secret_of_its_own_that_is_never_shown():
    make = {"address": "hub:443", "site": "a", "fingerprint": FINGERPRINT}
    first, second = Invitation.new(**make), Invitation.new(**make)

    assert first.secret != second.secret
    assert "secret" not in repr(first)
    assert Invitation.new(**make, random=bytes).secret == bytes(16)


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "hub"},
        {"site": "a b"},
        {"fingerprint": FINGERPRINT.upper()},
        {"fingerprint": "ab"},
        {"secret": b"short"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_invitation_of_wrong_parts_is_not_made(changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        invitation(**changes)


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("hub.example.org:443", ("hub.example.org", 443)),
        ("192.0.2.1:8443", ("192.0.2.1", 8443)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
    ],
)
def test_an_address_is_split(address, parts):
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address",
    [
        "hub",
        "hub:",
        ":443",
        "hub:0",
        "hub:65536",
        "hub:443/x",
        "https://hub:443",
        "hub:443\n",
        "2001:db8::1:443",
        "a@hub:443",
        f"{'a' * 252}:443",
    ],
)
def test_what_is_no_address_is_told(address):
    with pytest.raises(InputError, match="must be host:port"):
        split_address(address)


def test_a_secret_admits_its_site_only():
    secret, stored = bytes(range(16)), secret_hash(bytes(range(16)), "site-a")

    assert matches(secret, "site-a", stored)
    assert not matches(secret, "site-b", stored)
    assert not matches(bytes(16), "site-a", stored)
    assert not matches(secret + b"site", "-a", stored)
    assert not matches(b"", "site-a", stored)
    assert not matches(secret, "site-a", "")
    assert not matches(secret, "site-a", "ä")


def test_the_short_code_is_40_bits_of_the_hash_that_its_docstring_names():
    parts = [b"request", b"node", FINGERPRINT.encode()]
    content = b"fedseg short code 1" + b"".join(
        len(part).to_bytes(4, "big") + part for part in parts
    )
    bits = f"{int(hashlib.sha256(content).hexdigest()[:10], 16):040b}"
    letters = [CROCKFORD[int(bits[i : i + 5], 2)] for i in range(0, 40, 5)]

    code = short_code(b"request", b"node", FINGERPRINT)

    assert code == "".join(letters[:4]) + "-" + "".join(letters[4:])


def test_every_part_changes_the_short_code():
    codes = {
        short_code(b"ab", b"c", FINGERPRINT),
        short_code(b"a", b"bc", FINGERPRINT),
        short_code(b"ab", b"d", FINGERPRINT),
        short_code(b"ab", b"c", hashlib.sha256(b"other").hexdigest()),
    }

    assert len(codes) == 4
    assert short_code(b"a", b"b", FINGERPRINT.upper()) == short_code(b"a", b"b", FINGERPRINT)
