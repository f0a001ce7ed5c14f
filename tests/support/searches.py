"""Searches whose federations are a formula, for tests that train nothing."""

from dataclasses import replace

from client.profile import load_profile
from common.study.composable import ComposableUNet
from deploy.search import candidate
from deploy.search.evaluate import Simulated
from deploy.search.plan import plan_of
from deploy.search.search import Search
from deploy.search.trial import Outcome, Trial
from tests.support.studies import small_study


class Heard:
    """Keeps what a search says; ends the process' part of it after so many trials."""

    def __init__(self, most=10**6):
        self.trials, self.most = [], most

    def doing(self, words):
        pass

    say = doing

    def done(self, trial):
        self.trials.append(trial)
        if len(self.trials) >= self.most:
            raise KeyboardInterrupt


def outcome(dice, parameters, curve=None):
    """Return an outcome of a search's trial."""
    return Outcome(
        dice=dice, by_modality={"ct": dice, "mr": dice}, best_round=1, parameters=parameters,
        round_bytes=8 * parameters, seconds=1.0, curve=curve or {"1": dice},
    )  # fmt: skip


def trial(number, dice, parameters, **changes):
    """Return a complete trial."""
    made = Trial(number=number, state="complete", outcome=outcome(dice, parameters))
    return replace(made, **changes)


def parameters_by_formula(study):
    network = study.network
    return sum(network.widths) * (2 + len(network.block))


def dice_by_formula(study):
    """Return a Dice that depends on every choice."""
    network, loss = study.network, study.loss
    weight = loss.terms[0].weight if loss.name == "sum" else 0.5
    size = parameters_by_formula(study) / 2000
    return round(0.5 * (1 - 1 / (1 + size)) + 0.01 * len(network.attention) + 0.3 * weight, 4)


def without_training(monkeypatch, fails=lambda study: False):
    """Replace the training of a candidate by a formula; return the studies it was asked for."""
    trained = []

    def train(self, study, number, heard):
        folder = self.folder(study, number)
        trained.append(study)
        if fails(study):
            raise RuntimeError("out of memory\nand more")
        dice, curves[folder] = dice_by_formula(study), {}
        for closed in range(1, study.federation.rounds):
            curves[folder][str(closed)] = dice * closed / study.federation.rounds
            heard(curves[folder])
        curves[folder][str(study.federation.rounds)] = dice

    curves = {}
    monkeypatch.setattr(Simulated, "train", train)
    monkeypatch.setattr(candidate, "parameters_of", parameters_by_formula)
    monkeypatch.setattr(
        candidate, "outcome_of",
        lambda folder, study, parameters: outcome(
            max(curves[folder].values()), parameters, curves[folder]
        ),
    )  # fmt: skip
    return trained


def new_search(folder, sites, *, trials=12, rounds=4, notice=None, **plan):
    """Return a search of the small study over networks, at random unless said otherwise."""
    study = replace(plan.pop("study", None) or small_study(), network=ComposableUNet())
    study = replace(study, training=replace(study.training, patch=(16, 16)))
    chosen = {
        "over": "network",
        "strategy": "random",
        "prune": "none",
        "rounds": rounds,
        **plan,
    }
    known = [(load_profile(path), path) for path in sites]
    folder.mkdir(exist_ok=True)
    return Search(
        folder=folder, study=study, plan=plan_of(study, known, **chosen), trials=trials,
        trainer=Simulated(folder / "trials", known), notice=notice or Heard(),
    )  # fmt: skip
