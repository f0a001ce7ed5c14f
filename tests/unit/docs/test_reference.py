from dataclasses import fields

import pytest

from client.profile import Profile
from common.study import Study, parse_study
from deploy.cli.reference import (
    Section,
    described,
    documented_fields,
    parent_of,
    reference,
    run,
    sections_of,
)
from tests.support.studies import ROOT

PAGE = ROOT / "docs" / "study.md"
SECTIONS = [s for top in (Study, Profile) for s in sections_of(Section("", top))]
KEYS = [(section, item.name) for section in SECTIONS for item in documented_fields(section)]


def test_the_committed_page_is_what_the_generator_writes(tmp_path):
    run([str(tmp_path / "study.md")])

    written = (tmp_path / "study.md").read_text()
    assert written == PAGE.read_text(), "make docs writes it anew"


@pytest.mark.parametrize(
    ("section", "key"), KEYS, ids=[f"{s.kind.__name__}.{k}" for s, k in KEYS]
)
def test_every_key_has_a_text(section, key):
    assert described(section.kind)[1].get(key)


@pytest.mark.parametrize("section", SECTIONS, ids=[s.kind.__name__ for s in SECTIONS])
def test_no_text_is_of_a_key_that_is_not_there(section):
    keys = {f.name for f in documented_fields(section)}
    if parent_of(section.kind) is not None:  # the others stand with the parent
        keys |= {f.name for f in fields(section.kind)}
    assert set(described(section.kind)[1]) <= keys


def test_every_part_of_a_study_and_a_profile_has_a_section():
    headings = [line for line in reference().splitlines() if line.startswith("## ")]

    assert len(headings) == len(set(headings)) == len(SECTIONS)
    assert "## `network: dynunet`" in headings
    assert "## `federation.method: fedprox`" in headings
    assert "## `datasets.N`" in headings


def test_the_short_forms_that_the_page_promises_are_read():
    study = parse_study(
        "{name: a, dimensions: 2, labels: [liver], network: dynunet, loss: dice,"
        " modalities: {mr: {intensity: arbitrary}}, federation: {method: fedprox}}"
    )

    assert study.label_names == ("liver",)
    assert (study.network.name, study.loss.name) == ("dynunet", "dice")
    assert study.federation.method.name == "fedprox"
    assert study.training.patch == (128, 128)
