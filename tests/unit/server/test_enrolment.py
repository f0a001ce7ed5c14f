from dataclasses import replace

import numpy as np
import pytest

from common.errors import QuorumError, UpdateRefusedError
from common.messages import ClassAffinity, IntensityTotals, Pooled
from common.study import Federation, study_hash
from server.enrolment import check_enrolment, check_quorum, pool, pool_affinities
from tests.support.studies import accounting, enrolment, small_study

STUDY = small_study()
SITE = enrolment("A", {"ct": 10})


def totals_of(*channels):
    return tuple(
        IntensityTotals(count=c.size, total=float(c.sum()), squares=float((c**2).sum()))
        for c in channels
    )


def test_a_site_that_fits_the_study_is_welcome():
    check_enrolment(SITE, STUDY, study_hash(STUDY))
    check_enrolment(enrolment("Klinik-2.b", {"ct": 1, "mr": 3}), STUDY, study_hash(STUDY))


def ct(**changes):
    return {"accounting": {"ct": accounting(10, **changes)}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"study": "0" * 64}, "read another study"),
        ({"site": "../../etc/x"}, "calls itself '../../etc/x', which is no site's name"),
        ({"site": ""}, "calls itself ''"),
        ({"site": "a\n"}, "calls itself 'a\\n'"),
        (
            {"accounting": {"pet": accounting(3)}},
            "has modalities that the study lacks: ['pet']",
        ),
        ({"annotated": ("liver", "colon")}, "annotates labels that the study lacks"),
        ({"accounting": {"ct": accounting(0)}}, "has no usable training case"),
        ({"accounting": {}}, "has no usable training case"),
        (ct(usable=13), "its ct cases do not add up"),
        (ct(declared=13), "its ct cases do not add up"),
        (ct(validation=-1), "has a negative number of ct cases"),
        (ct(skipped={"unreadable": -2}), "has a negative number of ct cases"),
        ({"totals": {"ct": ()}}, "its ct intensity sums cannot be pooled"),
        ({"totals": {"ct": totals_of(*np.ones((2, 3)))}}, "its ct intensity sums cannot be"),
        ({"totals": {"ct": totals_of(np.array([np.nan]))}}, "its ct intensity sums cannot be"),
        ({"totals": {"ct": totals_of(np.array([np.inf]))}}, "its ct intensity sums cannot be"),
    ],
    ids=[
        "another study",
        "name that climbs",
        "empty name",
        "name of two lines",
        "unknown modality",
        "unknown label",
        "nothing to train on",
        "nothing at all",
        "parts above usable",
        "declared above usable and skipped",
        "negative part",
        "negative skipped",
        "sums of no channel",
        "sums of more channels",
        "sums that are nan",
        "sums that are infinite",
    ],
)
def test_a_site_that_does_not_fit_is_refused_with_its_reason(change, reason):
    with pytest.raises(UpdateRefusedError) as caught:
        check_enrolment(replace(SITE, **change), STUDY, study_hash(STUDY))

    assert str(caught.value).startswith(reason)


def test_pooled_mean_and_deviation_are_numpys_over_all_voxels():
    rng = np.random.default_rng(0)
    parts = [rng.normal(40, 120, size=(2, n)) for n in (1000, 30, 7)]
    sites = [enrolment(f"S{i}", totals={"ct": totals_of(*p)}) for i, p in enumerate(parts)]

    statistics = pool(sites, small_study(channels=2)).statistics["ct"]

    everything = np.concatenate(parts, axis=1)
    expected = list(zip(everything.mean(axis=1), everything.std(axis=1), strict=True))
    assert np.ravel(statistics) == pytest.approx(np.ravel(expected), rel=1e-12)


def test_pooling_does_not_depend_on_who_answered_first():
    rng = np.random.default_rng(0)
    sites = [
        enrolment(f"S{i}", totals={"ct": totals_of(rng.normal(1e4, 1, size=9))})
        for i in range(5)
    ]

    assert pool(sites, STUDY) == pool(reversed(sites), STUDY)


def test_only_hounsfield_modalities_are_pooled_over_those_who_have_them():
    mr = enrolment("B", {"mr": 4}, totals={"mr": totals_of(np.ones(4))})

    assert pool([enrolment("A"), mr], STUDY) == Pooled()


@pytest.mark.parametrize("voxels", [[], [5.0, 5.0]], ids=["no voxel", "one value"])
def test_what_has_no_spread_is_divided_by_one(voxels):
    site = enrolment(totals={"ct": totals_of(np.array(voxels))})

    ((mean, deviation),) = pool([site], STUDY).statistics["ct"]

    assert (mean, deviation) == (5.0 if voxels else 0.0, 1.0)


def affinity(scale):
    sums = tuple(tuple(scale * (3 * i + j) for j in range(3)) for i in range(3))
    return ClassAffinity(sums=sums, counts=(scale, 0.0, 2.0 * scale))


def test_affinities_are_added_by_modality_in_site_order():
    reported = {
        "B": {"ct": affinity(0.1), "mr": affinity(5.0)},
        "A": {"ct": affinity(0.2)},
        "C": {"ct": affinity(0.3)},
    }

    pooled = pool_affinities(reported)

    assert pooled["mr"] == affinity(5.0)
    assert np.ravel(pooled["ct"].sums) == pytest.approx(np.ravel(affinity(0.6).sums))
    assert pooled == pool_affinities(dict(reversed(reported.items())))
    assert pool_affinities({}) == {}


def quorum(modalities, **needs):
    study = small_study(federation=Federation(**needs))
    check_quorum(modalities, study, "round 3", {"C": "reports 0 ct cases"})


def test_enough_sites_go_on():
    quorum({"A": ["ct"], "B": ["mr"]}, minimum_sites=2)
    quorum({"A": ["ct", "mr"], "B": ["mr"]}, minimum_sites_per_modality=1)


@pytest.mark.parametrize(
    ("modalities", "needs", "message"),
    [
        (
            {"A": ["ct"]},
            {"minimum_sites": 2},
            "round 3: 1 sites remain, the study needs 2 (federation.minimum_sites)\n"
            "  C: reports 0 ct cases",
        ),
        (
            {"A": ["ct"], "B": ["ct"]},
            {"minimum_sites": 1, "minimum_sites_per_modality": 1},
            "round 3: 0 sites with mr remain, the study needs 1 "
            "(federation.minimum_sites_per_modality)\n  C: reports 0 ct cases",
        ),
        ({}, {"minimum_sites": 1}, "round 3: 0 sites remain, the study needs 1"),
    ],
    ids=["sites", "sites of a modality", "nobody"],
)
def test_too_few_sites_stop_the_run_and_it_is_said_who_is_missing(modalities, needs, message):
    with pytest.raises(QuorumError) as caught:
        quorum(modalities, **needs)

    assert str(caught.value).startswith(message)
