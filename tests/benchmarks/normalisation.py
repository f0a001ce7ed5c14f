"""What normalisation, distillation and federating do on CT + MRI phantoms: paired seeds.

Four sites (2 CT, 2 MRI) of 2-D phantoms at default difficulty. Every arm has the same people,
the same initial weights, the same batches and the same number of steps; it differs in what the
table says. Dice on held-out cases, mean over labels, then sites, then the two modalities.

    python tests/benchmarks/normalisation.py [--json FILE] [--seeds N] [--processes N]
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import yaml

sys.path.insert(0, str(Path(__file__).parents[2]))

LABELS = [
    "liver",
    "spleen",
    {"name": "left_kidney", "side": "left"},
    {"name": "right_kidney", "side": "right"},
]
ROUNDS, STEPS, CASES = 20, 15, 25


@dataclass(frozen=True)
class Arm:
    """One line of the table: what the study says, and which sites are in it."""

    norm: str
    sharing: str
    distillation: float = 0.0
    sites: str = "all"
    local: bool = False


ARMS = {
    "FedAvg, batch norm": Arm("batch", "everything", local=True),
    "per-modality batch norm": Arm("batch", "per_modality"),
    "FedAvg, group norm": Arm("group", "everything", local=True),
    "per-modality group norm": Arm("group", "per_modality"),
    "per-modality group norm, distilled": Arm("group", "per_modality", distillation=0.5),
    "one federation per modality, group norm": Arm("group", "everything", sites="split"),
    "centralised, per-modality group norm": Arm("group", "per_modality", sites="central"),
}
ALONE = {"FedAvg, batch norm": "alone, batch norm", "FedAvg, group norm": "alone, group norm"}


def study_of(arm: Arm, seed: int, modalities: list[str], sites: int) -> Mapping[str, object]:
    """Write an arm's study; the centralised one takes as many steps as all sites together."""
    window = {"intensity": "hounsfield", "window": [-160, 240]}
    known = {"ct": window, "mr": {"intensity": "arbitrary"}}
    return {
        "name": "normalisation", "dimensions": 2, "labels": LABELS, "seed": seed,
        "modalities": {m: known[m] for m in modalities},
        "network": {"name": "unet", "channels": [8, 16, 32, 32], "strides": [2, 2, 2], "residual_units": 1, "norm": arm.norm},
        "training": {"steps": STEPS * sites, "batch": 4, "patch": [64, 64], "learning_rate": 4e-3},
        "federation": {"rounds": ROUNDS}, "sharing": {"norm": arm.sharing},
        "distillation": {"weight": arm.distillation},
        "evaluation": {"validation": 0.15, "test": 0.3, "every": 5, "local": arm.local},
    }  # fmt: skip


def run_arm(
    arm: Arm, seed: int, data: Path, out: Path, processes: int
) -> dict[str, dict[str, float]]:
    """Run an arm; return mean Dice by model and modality."""
    profiles = {p.stem: p for p in sorted(data.glob("*.yaml"))}
    if arm.sites == "central":
        groups = [[central_profile(data, list(profiles))]]
    elif arm.sites == "split":
        groups = [[p for n, p in profiles.items() if n.startswith(m)] for m in ("ct", "mr")]
    else:
        groups = [list(profiles.values())]
    found: dict[str, dict[str, list[float]]] = {}
    for i, group in enumerate(groups):
        modalities = ["ct", "mr"] if arm.sites != "split" else [("ct", "mr")[i]]
        study = study_of(arm, seed, modalities, len(profiles) if arm.sites == "central" else 1)
        for model, scores in run_federation(study, group, out / str(i), processes).items():
            for modality, values in scores.items():
                found.setdefault(model, {}).setdefault(modality, []).extend(values)
    return {model: {m: mean(v) for m, v in sorted(by.items())} for model, by in found.items()}


def central_profile(data: Path, names: list[str]) -> Path:
    """Write a profile that holds every site's folder."""
    path = data / "central.profile"
    entries = [{"folder": name, "modality": name.split("-")[0]} for name in names]
    path.write_text(
        yaml.safe_dump(
            {"name": "central", "datasets": entries, "device": "cpu", "predictions": 0}
        )
    )
    return path


def run_federation(
    study: Mapping[str, object], profiles: list[Path], out: Path, processes: int
) -> dict[str, dict[str, list[float]]]:
    """Simulate; return each site's test Dice by model and modality."""
    from common.study.load import parse_study
    from deploy.simulation.checks import load_sites
    from deploy.simulation.simulate import run_simulation, start_run

    typed = parse_study(yaml.safe_dump(study))
    sites = load_sites(profiles, typed, "study")
    start_run(typed, list(zip(sites, profiles, strict=True)), out)
    run_simulation(out, processes=min(processes, len(profiles)))
    found: dict[str, dict[str, list[float]]] = {}
    for evaluation in json.loads((out / "journal" / "final.json").read_text())[
        "record"
    ].values():
        for model in ("federated", "alone"):
            by: dict[str, list[float]] = {}
            for s in evaluation[model]:
                if s["metric"] == "dice":
                    by.setdefault(s["modality"], []).append(s["value"])
            for modality, values in by.items():
                found.setdefault(model, {}).setdefault(modality, []).append(mean(values))
    return found


def measure(seed: int, processes: int) -> dict[str, dict[str, float]]:
    """Run every arm on one seed's phantoms."""
    from deploy.phantoms import PhantomPlan, parse_sites, write_phantoms

    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = PhantomPlan(
            sites=parse_sites("2ct,2mri", CASES), dimensions=2, difficulty="default", seed=seed
        )
        for path in write_phantoms(folder / "data", plan):
            path.write_text(path.read_text() + "predictions: 0\n")
        for i, (label, arm) in enumerate(ARMS.items()):
            found = run_arm(arm, seed, folder / "data", folder / f"arm{i}", processes)
            rows[label] = found["federated"]
            if "alone" in found:
                rows[ALONE[label]] = found["alone"]
            print(
                f"seed {seed}: {label}: "
                + ", ".join(f"{m} {v:.3f}" for m, v in rows[label].items()),
                flush=True,
            )
    return rows


def both(scores: Mapping[str, float]) -> float:
    """Mean of the two modalities."""
    return mean(scores.values())


def main() -> None:
    """Measure, print the arms and the paired differences."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    seeds = [measure(seed, given.processes) for seed in range(1, given.seeds + 1)]
    print(f"\n{'arm':42s}  CT     MR     mean")
    for arm in seeds[0]:
        ct, mr = (mean(s[arm][m] for s in seeds) for m in ("ct", "mr"))
        print(f"{arm:42s}  {ct:.3f}  {mr:.3f}  {(ct + mr) / 2:.3f}")
    pairs = [
        ("FedAvg, batch norm", "alone, batch norm"), ("per-modality batch norm", "FedAvg, batch norm"),
        ("FedAvg, group norm", "FedAvg, batch norm"), ("per-modality group norm", "FedAvg, group norm"),
        ("per-modality group norm", "alone, group norm"),
        ("per-modality group norm, distilled", "per-modality group norm"),
        ("per-modality group norm, distilled", "one federation per modality, group norm"),
        ("per-modality group norm, distilled", "centralised, per-modality group norm"),
    ]  # fmt: skip
    print("\nDice points, paired by seed: mean, standard deviation, each seed")
    differences = {}
    for one, two in pairs:
        points = [100 * (both(s[one]) - both(s[two])) for s in seeds]
        differences[f"{one} - {two}"] = points
        spread = stdev(points) if len(points) > 1 else 0.0
        print(
            f"{mean(points):+6.1f} +- {spread:4.1f}  {one} - {two}: "
            + ", ".join(f"{p:+.1f}" for p in points)
        )
    if given.json:
        given.json.write_text(
            json.dumps({"seeds": seeds, "differences": differences}, indent=1)
        )
    repair = mean(differences["per-modality batch norm - FedAvg, batch norm"])
    print(
        f"normalisation: {repair:+.1f} Dice points from per-modality norm over averaged batch norm"
    )


if __name__ == "__main__":
    main()
