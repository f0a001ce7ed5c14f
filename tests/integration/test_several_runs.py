"""Two studies at once on one federation; a run that is paused, resumed, and one that is stopped."""

import pytest

from common.study.study import canonical_json
from deploy.local import local_federation
from server.journal import Journal
from tests.support.deployment import NEEDS_NGINX
from tests.support.federations import phantom_sites, small_study

pytestmark = [
    pytest.mark.slow,
    NEEDS_NGINX,
]
HUB = "coordinator"


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r")
    profiles = phantom_sites(folder / "data", modalities=("ct", "mr"))
    with local_federation(folder / "f", profiles) as (federation, names):
        yield federation, names


def started(federation, names, folder, **changes):
    file = folder / f"{'-'.join(map(str, changes.values()))}.yaml"
    file.write_text(canonical_json(small_study(minimum=2, **changes)))
    run = federation.start_study(file)
    for name in names:
        federation.approve(name, run, "--minimum-cases", "1")
    return run


def rounds(federation, run):
    return Journal(federation.hub / "runs" / run).closed_rounds()


def test_two_runs_share_the_sites_and_both_end(federation, tmp_path):
    federation, names = federation
    runs = [started(federation, names, tmp_path, rounds=n) for n in (6, 7)]
    states = set()

    def both_ended():
        rows = [federation.registry.run(run) for run in runs]
        states.add(tuple(row.state for row in rows))
        return all(row.state == "finished" for row in rows)

    federation.wait(both_ended, 240, "both runs are finished")

    assert ("running", "running") in states
    assert [len(rounds(federation, run)) for run in runs] == [6, 7]
    assert all(len(c.accepted) == 2 for run in runs for c in rounds(federation, run))


def test_a_run_is_paused_and_goes_on_at_its_round(federation, tmp_path):
    federation, names = federation
    run = started(federation, names, tmp_path, rounds=9)
    federation.wait(
        lambda: federation.registry.run(run).round >= 2, 120, "two rounds are closed"
    )

    federation.run(HUB, "hub", "pause", run[:18], "--folder", str(federation.hub))
    federation.wait_for(run, 60, ("paused",))
    before = rounds(federation, run)
    federation.run(HUB, "hub", "resume", run, "--folder", str(federation.hub))
    row = federation.wait_for(run, 240)

    after = rounds(federation, run)
    assert (row.attempts, len(after)) == (1, 9)  # attempts are counted anew
    assert [c.digest for c in after[: len(before)]] == [c.digest for c in before]


def test_a_run_that_is_stopped_keeps_its_weights_and_disturbs_nobody(federation, tmp_path):
    federation, names = federation
    run = started(federation, names, tmp_path, rounds=500)
    federation.wait(lambda: federation.registry.run(run).round >= 1, 120, "a round is closed")

    federation.run(HUB, "hub", "stop", run, "--folder", str(federation.hub))
    federation.wait_for(run, 60, ("stopped",))

    closed = rounds(federation, run)
    assert Journal(federation.hub / "runs" / run).model(len(closed)).exists()
    other = started(federation, names, tmp_path, rounds=1)
    federation.wait_for(other, 120)


def test_a_study_that_nobody_approved_is_never_sent_to_anyone(federation, tmp_path):
    federation, names = federation
    file = tmp_path / "unwanted.yaml"
    file.write_text(canonical_json(small_study(minimum=1, rounds=11)))
    run = federation.start_study(file)
    federation.wait(
        lambda: "to approve" in federation.registry.run(run).sentence, 30, "it waits"
    )
    logs = [
        (federation.site(name) / "log/site.log").read_text().count("Receiving")
        for name in names
    ]

    federation.approve(names[0], run, "--minimum-cases", "1")
    hash_ = federation.registry.run(run).hash
    federation.run(
        names[1], "site", "deny", hash_[:12], "--folder", str(federation.site(names[1]))
    )
    federation.wait_for(run, 60, ("paused", "failed"))  # a modality is missing: it says so

    assert "mr remain" in federation.registry.run(run).sentence
    now = [
        (federation.site(name) / "log/site.log").read_text().count("Receiving")
        for name in names
    ]
    assert now[0] > logs[0]
    assert now[1] == logs[1]
