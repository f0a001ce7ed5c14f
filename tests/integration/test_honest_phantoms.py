"""Phantoms are honest only if a network trained on one modality fails on the other."""

from common.study.load import parse_study
from deploy.cli.scoring import evaluate_run
from deploy.phantoms import PhantomPlan, parse_sites, write_phantoms
from deploy.simulation.simulate import run_simulation
from tests.support.federations import built

STUDY = """
name: honest
dimensions: 2
labels: [liver, spleen, {name: left_kidney, side: left}, {name: right_kidney, side: right}]
modalities:
  ct: {intensity: hounsfield, window: [-160, 240]}
  mr: {intensity: arbitrary}
network: {name: unet, channels: [8, 16, 32, 32], strides: [2, 2, 2], residual_units: 1}
training: {steps: 75, batch: 4, patch: [64, 64], learning_rate: 4e-3}
federation: {rounds: 4, minimum_sites_per_modality: 0}
sharing: {norm: everything}
evaluation: {every: 4, test: 0.3, local: false}
"""


def mean_dice(folder, profile, out):
    import csv

    _, table = evaluate_run(folder, profile, out)
    with table.open() as file:
        values = [
            float(row["dice"]) for row in csv.DictReader(file) if row["absent"] == "False"
        ]
    return sum(values) / len(values)


def test_a_network_trained_on_ct_phantoms_fails_on_mri_phantoms(tmp_path):
    plan = PhantomPlan(sites=parse_sites("1ct,1mr", 24), dimensions=2, seed=11)
    ct, mr = write_phantoms(tmp_path / "data", plan)
    folder = built(parse_study(STUDY), [ct], tmp_path / "run")

    run_simulation(folder)

    assert mean_dice(folder, ct, tmp_path / "ct") > 0.7
    assert mean_dice(folder, mr, tmp_path / "mr") < 0.35
