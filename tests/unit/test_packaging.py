import importlib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.studies import ROOT

OURS = ("server", "client", "common", "deploy", "tests")


@pytest.mark.parametrize("name", OURS)
def test_no_other_distribution_installs_one_of_our_names(name):
    assert set(packages_distributions().get(name, [])) <= {"fedseg"}


@pytest.mark.parametrize("name", ["server", "client", "common", "deploy"])
def test_our_names_are_imported_from_this_checkout(name):
    assert Path(importlib.import_module(name).__file__).parent == ROOT / name
