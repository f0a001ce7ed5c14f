import shutil
import subprocess
from datetime import UTC, datetime

import pytest

from deploy.provision.authority import Authorities
from deploy.provision.site_keys import SiteKeys

HUB_NAMES = ["hub.example.org", "192.0.2.7", "2001:db8::7"]


@pytest.fixture
def now():
    return datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)


@pytest.fixture
def pki(tmp_path, now):
    return Authorities.create(tmp_path / "pki", HUB_NAMES, now)


@pytest.fixture
def keys(tmp_path):
    return SiteKeys.create(tmp_path / "site" / "keys")


@pytest.fixture
def openssl():
    """OpenSSL's own command line, which knows nothing of how we made the certificates."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")

    def run(*arguments):
        words = ["openssl", *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    return run
