"""Studies, runs and processes as a site's people see them."""

import json
import time
from collections.abc import Sequence

from rich.table import Table

from client.consent import Consent, Limits, most_rounds
from client.profile import check_profile, load_profile
from common.study.study import Study
from common.wire import control_pb2 as pb
from deploy.cli.describe import cost_of, in_words
from deploy.supervise.offers import Offer, Offers
from deploy.supervise.site_folder import SiteFolder
from deploy.supervise.status import read_programs

SHORT = 12
MIB = 2**20


def offers_table(offers: Offers, site: SiteFolder) -> Table:
    """Return all offers with what was decided."""
    table = Table("study", "name", "segments", "in", "rounds", "sent a round", "here", "note",
                  title=f"Studies offered to {site.settings.site}")  # fmt: skip
    consent = Consent(site.path / "consent")
    for offer in offers.all():
        study, standing = offer.study, consent.standing(offer.hash)
        table.add_row(
            offer.hash[:SHORT], study.name + (" (search)" if study.search else ""),
            ", ".join(study.label_names), ", ".join(study.modalities), _rounds(study),
            _bytes(offer), standing.state,
            " ".join(filter(None, [standing.note, offer.note])),
        )  # fmt: skip
    return table


def _rounds(study: Study) -> str:
    rounds = str(study.federation.rounds)
    return rounds if study.search is None else f"{study.search.trials} x {rounds}"


def _bytes(offer: Offer) -> str:
    if not offer.round_bytes:  # a search for a network
        return "differs"
    return f"{offer.round_bytes / MIB:.2f} MiB at most"


def _unlike_shown(study: Study) -> list[str]:
    if study.search is None or study.search.over == "loss":
        return []
    return ["               as many as the network of each trial has; above, of the one shown"]


def offer_in_words(offer: Offer, site: SiteFolder) -> str:
    """Return a study in full: what is trained here, what leaves the site, how many bytes."""
    study = offer.study
    cost = cost_of(study)
    rounds = most_rounds(study, Limits()) or study.federation.rounds
    lines = [in_words(study, cost), "", "What would leave this site:"]
    lines += [
        f"  each round   the trained weights, {cost.up_bytes / MIB:.2f} MiB with one modality "
        f"({rounds * cost.up_bytes / MIB:.1f} MiB in all {rounds} rounds)",
        *_unlike_shown(study),
        "               counts of cases and of cases set aside by reason, steps, loss, times",
        "               mean Dice by label and modality over the validation cases",
    ]
    if study.distillation.weight and len(study.modalities) > 1:
        lines.append(
            "               class affinities: sums of logits and counts of voxels by class, "
            f"{len(study.classes)} x {len(study.classes)} and {len(study.classes)}"
        )
    if any(m.intensity == "hounsfield" for m in study.modalities.values()):
        lines.append(
            "  once         sum and sum of squares of labelled voxels' intensities, by channel"
        )
    lines += [
        "  at the end   metrics by label over the test cases, never by case",
        "  never        an image, a label map, a name of a case, file or folder, a text of an "
        "error",
        "",
    ]
    problems = check_profile(load_profile(site.profile), study, str(site.profile))
    if problems:
        lines += ["This site's profile does not fit the study:", *(f"  {p}" for p in problems)]
    else:
        lines.append("This site's profile fits the study.")
    standing = Consent(site.path / "consent").standing(offer.hash)
    lines.append(f"Decision here: {standing.state}. {standing.note}".rstrip())
    return "\n".join(lines)


def runs_table(runs: Sequence[pb.RunSummary]) -> Table:
    """Return the runs of a site."""
    table = Table("run", "study", "state", "rounds closed", "to fetch", "waits for")
    for run in runs:
        table.add_row(
            run.run, f"{run.name} {run.hash[:SHORT]}", run.state,
            f"{run.round} of {run.rounds}", ", ".join(run.files), run.sentence,
        )  # fmt: skip
    return table


def site_status(site: SiteFolder) -> Table:
    """Return what runs at a site and whether the hub is reached."""
    table = Table("what", "how it is", title=f"Site {site.settings.site}")
    for name, what in read_programs(site.path).items():
        ready = (
            "ready" if what.get("ready") else f"not running, last code {what.get('exit_code')}"
        )
        table.add_row(name, f"{ready}; started {what.get('starts')} times")
    try:
        told = json.loads((site.path / "run" / "agent.json").read_text(encoding="utf-8"))
        age = time.time() - float(told["time"])
        table.add_row("hub", f"{told['hub']} ({age:.0f} s ago)")
        for sentence in told.get("sentences", ()):
            table.add_row("the hub says", str(sentence))
        worker = told.get("worker", {})
        if worker.get("run"):
            done = f"{worker['phase']} {worker['done']} of {worker['total']}"
            table.add_row("work", f"run {worker['run']}, round {worker['round']}, {done}")
    except (OSError, ValueError, KeyError):
        table.add_row("hub", "nothing known; is fedseg site run running?")
    keys = site.keys
    table.add_row("certificate", f"until {keys.expires():%Y-%m-%d}")
    return table
