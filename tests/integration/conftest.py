import pytest

from tests.support.federations import phantom_sites


@pytest.fixture(scope="session")
def sites(tmp_path_factory):
    """Four phantom sites, two CT and two MR; tests must not change them."""
    return phantom_sites(tmp_path_factory.mktemp("phantoms"))
