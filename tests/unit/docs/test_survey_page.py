"""The page of the survey's methods is what the catalogues say."""

import pytest

from client.schemes import SCHEMES
from common.losses import LOSSES
from common.networks import NETWORKS
from deploy.cli.survey_page import LOSS, NETWORK, SCHEME, SECTIONS, page
from tests.support.studies import ROOT

LINES = [line for lines in SECTIONS.values() for line in lines]


def test_the_committed_page_is_what_the_generator_writes():
    assert (ROOT / "docs" / "survey.md").read_text() == page(), "make docs writes it anew"


@pytest.mark.parametrize("line", LINES, ids=[line.words for line in LINES])
def test_a_method_has_a_source_and_names_a_test_that_is_there(line):
    assert line.kind or line.source
    assert f"def test_{line.test}(" in (ROOT / line.file).read_text()


def test_every_entry_of_the_catalogues_stands_on_the_page():
    named = {(line.kind, line.entry) for line in LINES}
    assert {(NETWORK, name) for name in NETWORKS} <= named
    assert {(LOSS, name) for name in LOSSES} <= named
    assert {(SCHEME, name) for name in SCHEMES} - {(SCHEME, "supervised")} <= named
