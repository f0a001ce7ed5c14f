"""A real federation on loopback: hub, nginx and three sites, two rounds, one site killed."""

import json

import pytest

from common.errors import RunError
from common.study.study import canonical_json
from deploy.local import COORDINATOR, local_federation
from deploy.simulation.simulate import run_simulation
from server.journal import Journal
from tests.support.deployment import NEEDS_NGINX
from tests.support.federations import built, phantom_sites, small_study

PATIENT = "Mustermann_Erika"
SITES = ("ct", "ct", "mr")

pytestmark = NEEDS_NGINX


@pytest.fixture(scope="module")
def study():
    return small_study(rounds=2, minimum=2)


@pytest.fixture(scope="module")
def profiles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / PATIENT
    return phantom_sites(folder, modalities=SITES)


@pytest.fixture(scope="module")
def ended(tmp_path_factory, study, profiles):
    """Take a run to its end; one site is killed when the second round has begun."""
    folder = tmp_path_factory.mktemp("f")  # sockets need a short path
    file = folder / "study.yaml"
    file.write_text(canonical_json(study))
    with local_federation(folder, profiles) as (federation, names):
        run = federation.start_study(file)
        hub = ("--folder", str(federation.hub))
        # two sites are enough for it to begin, and the third must not come too late
        federation.run(COORDINATOR, "hub", "pause", run, *hub)
        for name in names:
            federation.approve(name, run, "--minimum-cases", "1")
        hash_ = federation.registry.run(run).hash
        federation.wait(
            lambda: len(federation.registry.there(hash_)) == len(SITES), 60, "all are ready"
        )
        federation.run(COORDINATOR, "hub", "resume", run, *hub)
        federation.wait(
            lambda: federation.registry.run(run).round == 1, 90, "round 1 is closed"
        )
        federation.end("ct-2", hard=True)
        row = federation.wait_for(run, 150)
        states = federation.status(federation.hub)
    return federation, Journal(folder / "hub" / "runs" / run), row, states


def test_both_rounds_close_and_the_second_without_the_killed_site(ended):
    _, journal, row, _ = ended
    first, second = journal.closed_rounds()

    assert [a.report.site for a in first.accepted] == ["ct-1", "ct-2", "mr-1"]
    assert [a.report.site for a in second.accepted] == ["ct-1", "mr-1"]
    assert "no longer connected" in second.refused["ct-2"]
    assert (row.attempts, row.state) == (1, "finished")
    assert set(json.loads((journal.folder / "journal/final.json").read_text())["record"]) == {
        "ct-1",
        "mr-1",
    }


def test_the_first_round_ends_with_the_bits_of_the_simulation(ended, study, profiles, tmp_path):
    _, journal, _, _ = ended
    simulated = built(study, profiles, tmp_path / "run")
    run_simulation(simulated)

    assert journal.closed_rounds()[0].digest == Journal(simulated).closed_rounds()[0].digest


def test_nobody_had_to_be_started_twice_at_the_hub(ended):
    *_, states = ended

    assert {name: (p["starts"], p["ready"]) for name, p in states.items()} == dict.fromkeys(
        ("superlink", "executor", "control", "proxy", "registrar", "metrics"), (1, True)
    )


def test_every_request_from_outside_carried_a_certificate_or_was_a_join(ended):
    federation, *_ = ended
    lines = (federation.hub / "nginx/logs/access.log").read_text().splitlines()
    requests = [json.loads(line) for line in lines]

    assert {r["site"] for r in requests if r["uri"] != "/fedseg.v1.Enrolment/Join"} >= {
        "ct-1", "ct-2", "mr-1",
    }  # fmt: skip
    nameless = {r["uri"] for r in requests if not r["site"] and r["status"] == 200}
    assert nameless == {"/fedseg.v1.Enrolment/Join"}


def test_no_file_of_the_hub_holds_a_patients_name(ended):
    federation, *_ = ended
    files = [path for path in federation.hub.rglob("*") if path.is_file()]
    holding = [str(path) for path in files if PATIENT.encode() in path.read_bytes()]

    assert len(files) > 40
    assert holding == []


def test_the_audit_logs_of_all_sides_are_in_order_and_tell_what_happened(ended):
    federation, *_ = ended
    for who in (federation.hub, federation.site("ct-1"), federation.site("ct-2")):
        federation.run("auditor", "audit", "verify", str(who))

    events = [
        json.loads(line)
        for line in (federation.hub / "audit/hub.jsonl").read_text().splitlines()
    ]
    told = [e["event"] for e in events]
    assert told.count("site_admitted") == 3
    assert told.count("round_closed") == 2
    assert told.count("head") >= 2
    accepted = [e for e in events if e["event"] == "update_accepted"]
    assert [
        (e["round"], e["site"]) for e in accepted if e["bytes"] > 0 and e["round"] == 2
    ] != []
    ledger = [
        json.loads(line)
        for line in (federation.site("ct-1") / "consent/ledger.jsonl").read_text().splitlines()
    ]
    begun = [(e["round"], e["cases"]) for e in ledger if e["event"] == "round_begun"]
    assert begun == [(1, {"ct": 3}), (2, {"ct": 3})]


def test_an_edit_of_an_audit_log_is_found(ended):
    federation, *_ = ended
    log = federation.hub / "audit/hub.jsonl"
    whole = log.read_text()
    try:
        log.write_text(whole.replace('"ct-2"', '"ct-9"', 1))
        with pytest.raises(RunError, match="CHANGED"):
            federation.run("auditor", "audit", "verify", str(federation.hub))
    finally:
        log.write_text(whole)
