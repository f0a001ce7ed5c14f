import json
from dataclasses import fields, replace

import pytest
from hypothesis import given

from common.study import SearchTerms, approval_hash, canonical_json, parse_study, study_hash
from common.study.losses import Dice
from common.study.networks import BasicUNet
from common.study.study import Augmentation, Distillation, Federation, Sharing, as_plain
from tests.support.strategies import checked, studies
from tests.support.studies import MR, small_study


@checked
@given(studies())
def test_a_study_survives_its_canonical_text(study):
    again = parse_study(canonical_json(study))

    assert again == study
    assert study_hash(again) == study_hash(study)


@checked
@given(studies())
def test_the_canonical_text_is_plain_json_with_defaults_written_out(study):
    text = canonical_json(study)

    assert json.loads(text) == as_plain(study)
    assert set(json.loads(text)) == {field.name for field in fields(study)}
    assert text.isascii()


@checked
@given(studies(), studies())
def test_two_studies_share_a_hash_only_if_they_are_equal(one, other):
    assert (study_hash(one) == study_hash(other)) == (one == other)


OTHER = {
    "name": "other",
    "labels": small_study("spleen", "liver").labels,
    "modalities": {"ct": MR, "mr": MR},
    "dimensions": 3,
    "channels": 2,
    "spacing_mm": (1.0, 1.0),
    "network": BasicUNet(),
    "loss": Dice(),
    "training": replace(small_study().training, steps=51),
    "augmentation": Augmentation(noise=0.06),
    "federation": Federation(rounds=21),
    "sharing": Sharing(norm="everything"),
    "distillation": Distillation(weight=0.0),
    "evaluation": replace(small_study().evaluation, every=2),
    "seed": 2,
    "search": SearchTerms(),
}


def test_every_field_of_a_study_has_another_value_here():
    assert set(OTHER) == {field.name for field in fields(small_study())}


@pytest.mark.parametrize("field", OTHER)
def test_another_field_is_another_hash(field):
    study = small_study()

    assert study_hash(replace(study, **{field: OTHER[field]})) != study_hash(study)


@checked
@given(studies())
def test_a_study_of_its_own_is_approved_by_its_own_hash(study):
    alone = replace(study, search=None)

    assert approval_hash(alone) == study_hash(alone)


@pytest.mark.parametrize("over", ["network", "loss", "both"])
@pytest.mark.parametrize("field", set(OTHER) - {"search"})
def test_the_approval_of_a_search_holds_for_what_it_is_over_and_for_nothing_else(field, over):
    study = replace(small_study(), search=SearchTerms(over=over))
    other = replace(study, **{field: OTHER[field]})
    is_free = field == over or (over == "both" and field in ("network", "loss"))

    assert (approval_hash(other) == approval_hash(study)) is is_free
    assert study_hash(other) != study_hash(study)


@checked
@given(studies(), studies())
def test_no_approval_of_a_search_is_one_of_a_study_of_its_own(one, other):
    search = replace(one, search=SearchTerms())

    assert approval_hash(search) != approval_hash(replace(other, search=None))


def test_the_order_of_modalities_does_not_matter():
    study = small_study()
    turned = dict(reversed(study.modalities.items()))

    assert study_hash(replace(study, modalities=turned)) == study_hash(study)
