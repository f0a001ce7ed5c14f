"""Every network, loss and scheme, trained as a CT and MRI federation with one budget.

Two sites with CT and two with MRI, phantoms of the easy kind, the same rounds and steps for all;
2-D, or small volumes where a network exists in 3-D only. Each row runs in a process of its own,
two at a time; a row that is in the table already is not run again.

    python tests/benchmarks/survey.py [--only NAME ...] [--losses|networks|schemes] [--again] [--out FOLDER]
"""

import argparse
import csv
import io
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

AT_ONCE, LONGEST_SECONDS = 2, 3600
KINDS = {
    "network": "Networks",
    "loss": "Losses, on one U-Net",
    "scheme": "Schemes of training, on the same U-Net",
}
ENOUGH = 0.7  # Dice of each modality
COLUMNS = ("entry", "kind", "ct_dice", "mr_dice", "parameters", "seconds", "memory_mb")
TEXT = """
name: survey
dimensions: {dimensions}
labels: [liver, spleen]
modalities:
  ct: {{intensity: hounsfield, window: [-160, 240]}}
  mr: {{intensity: arbitrary}}
training: {{steps: {steps}, batch: {batch}, patch: {patch}, learning_rate: 4e-3}}
federation: {{rounds: {rounds}, minimum_sites: 4, minimum_sites_per_modality: 2}}
evaluation: {{validation: 0.2, test: 0.25, local: false}}
"""
BUDGET = {
    2: {"steps": 20, "batch": 4, "patch": "[64, 64]", "rounds": 12},
    3: {"steps": 40, "batch": 2, "patch": "[32, 32, 32]", "rounds": 12},
}
SIDE = {2: 64, 3: 32}
USUAL = (8, 16, 32, 32)  # widths of the levels, where a network has levels
# Sizes of the others.
SMALLER: dict[str, dict[str, object]] = {
    "unet": {"channels": (8, 16, 32, 32)},
    "basic_unet": {"features": (8, 8, 16, 32, 32, 8)},
    "dynunet": {"filters": (8, 16, 32, 32)},
    "vnet": {"width": 4},
    "unet_plus_plus": {"features": (8, 8, 16, 32, 32, 8)},
    "kiu_net": {"widths": (8, 16)},
    "ki_net": {"widths": (16, 32)},
    "mednext": {"filters": 8},
    "dints": {"width": 8},
    "dints_search": {"width": 8},
    "pretrained_unet": {"encoder": "resnet10", "decoder": (32, 16, 16, 8, 8)},
    "swin_unetr": {"features": 12},
}
# Losses that are made to stand beside another, with their weight there.
BESIDE_DICE = {"boundary": 0.05, "cldice": 0.5, "hausdorff": 0.01}
# What a row needs that the budget is too small for: the cascade learns its second network only
# once the first one is good; unweighted cross entropy first learns that nearly all is background;
# SAUNet learns edges beside classes.
OTHERWISE: dict[str, dict[str, int]] = {
    "coarse_to_fine": {"steps": 40},
    "cross_entropy": {"steps": 40},
    "ki_net": {"steps": 40},
    "sa_unet": {"steps": 40},
}
# Why a row stays below ENOUGH whatever it is given.
WHY = {
    "ki_net": "each voxel is told from the 7 x 7 around it (9 x 9 with three levels), never from "
    "where it lies; 80 steps gave 0.78 and 0.60",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of one entry.

    Attributes:
        entry: Name in the catalogue.
        kind: ``network``, ``loss`` or ``scheme``.
        ct_dice: Mean Dice of the held-out CT cases, over sites and labels.
        mr_dice: Of the MRI cases.
        parameters: Trainable numbers.
        seconds: Of the whole run, on one thread of a processor, waiting not counted.
        memory_mb: Peak of the process.
        note: What is to be known of it.
    """

    entry: str
    kind: str
    ct_dice: float = math.nan
    mr_dice: float = math.nan
    parameters: int = 0
    seconds: float = 0.0
    memory_mb: float = 0.0
    note: str = ""


def entries(kind: str) -> list[str]:
    """Return the names to be measured."""
    if kind == "loss":
        from common.losses import LOSSES

        return list(LOSSES)
    if kind == "scheme":
        from client.schemes import SCHEMES

        return [name for name in SCHEMES if name != "supervised"]  # that is the loss dice_ce
    from common.networks import NETWORKS

    return list(NETWORKS)


def study_of(entry: str, kind: str) -> "Study":
    """Return the study of a row: the network small, the rest the same for all."""
    from common.networks import NETWORKS
    from common.study.composable import ComposableUNet
    from common.study.load import parse_study

    if kind in ("loss", "scheme"):
        network, loss = ComposableUNet(widths=USUAL), None
        if kind == "loss":
            loss = loss_of(entry)
    else:
        network, loss = NETWORKS[entry].config(**SMALLER.get(entry, {"widths": USUAL})), None
    dimensions = network.dimensions[0]
    budget = {**BUDGET[dimensions], **OTHERWISE.get(entry, {})}
    study = parse_study(TEXT.format(dimensions=dimensions, **budget))
    if kind == "scheme":
        from client.schemes import SCHEMES

        scheme = SCHEMES[entry].config()
        study = replace(study, training=replace(study.training, scheme=scheme))
    return replace(study, network=network, **({"loss": loss} if loss else {}))


def loss_of(entry: str) -> Any:
    """Return a loss as a study would use it: one that needs another beside it, beside Dice."""
    from common.losses import LOSSES
    from common.study.losses import Sum, Term
    from common.study.losses_region import Dice
    from common.study.losses_voxel import Boundary

    if entry == "sum":
        growing = Term(loss=Boundary(), weight=0.01, end_weight=0.1, between="linear")
        return Sum(terms=(Term(loss=Dice()), growing))
    config = LOSSES[entry].config()
    if entry in BESIDE_DICE:
        return Sum(terms=(Term(loss=Dice()), Term(loss=config, weight=BESIDE_DICE[entry])))
    return config


def measure(entry: str, kind: str, data: Path) -> Row:
    """Train one row in this process."""
    import torch

    from common.messages import Evaluation
    from common.networks import build_network
    from deploy.simulation.simulate import run_simulation
    from server.journal import Journal
    from tests.support.federations import built

    torch.set_num_threads(1)
    study = study_of(entry, kind)
    profiles = sorted((data / str(study.dimensions)).glob("*.yaml"))
    with tempfile.TemporaryDirectory() as held:
        folder = built(study, profiles, Path(held) / "run")
        began = time.process_time()
        run_simulation(folder)
        seconds = time.process_time() - began
        final = Journal(folder).read("final", dict[str, Evaluation]) or {}
    dice = {
        modality: [
            s.value for e in final.values() for s in e.federated
            if s.modality == modality and s.metric == "dice" and s.cases
        ]
        for modality in study.modalities
    }  # fmt: skip
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return Row(
        entry=entry, kind=kind, ct_dice=sum(dice["ct"]) / len(dice["ct"]),
        mr_dice=sum(dice["mr"]) / len(dice["mr"]),
        parameters=sum(p.numel() for p in build_network(study).parameters()), seconds=seconds,
        memory_mb=int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1e3,
        note="; ".join(
            [*(f"{v} {k} a round" for k, v in OTHERWISE.get(entry, {}).items()),
             *([WHY[entry]] if entry in WHY else [])]
        ),
    )  # fmt: skip


def in_child(entry: str, kind: str, data: Path) -> Row:
    """Train one row in a process of its own."""
    command = [sys.executable, __file__, "--child", entry, kind, str(data)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Row(entry=entry, kind=kind, note=f"not done in {LONGEST_SECONDS} s")
    if done.returncode:
        return Row(entry=entry, kind=kind, note=(done.stderr.strip().splitlines() or ["?"])[-1])
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def make_data(folder: Path) -> None:
    """Write the phantoms, 2-D and 3-D."""
    from deploy.phantoms import PhantomPlan, SitePlan, write_phantoms

    sites = tuple(
        SitePlan(name=f"{m}-{i}", modality=m, cases=10) for m in ("ct", "mr") for i in (1, 2)
    )
    for dimensions, side in SIDE.items():
        plan = PhantomPlan(
            sites=sites, dimensions=dimensions, labels=("liver", "spleen"), difficulty="easy",
            seed=11, size=side,
        )  # fmt: skip
        for profile in write_phantoms(folder / str(dimensions), plan):
            profile.write_text(profile.read_text() + "threads: 1\n")


# --- the table -------------------------------------------------------------------------------


def read_rows(file: Path) -> dict[tuple[str, str], Row]:
    """Read the rows that are there."""
    if not file.exists():
        return {}
    kinds = {f.name: f.type for f in fields(Row)}
    found = {}
    for line in csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))):
        given = {k: (float(v) if kinds[k] is float else int(v) if kinds[k] is int else v)
                 for k, v in line.items() if k in kinds}  # fmt: skip
        row = Row(**given)
        found[row.entry, row.kind] = row
    return found


def write_rows(folder: Path, rows: dict[tuple[str, str], Row]) -> None:
    """Write the table for programs and the one for people."""
    from common.files import write_text

    ordered = sorted(rows.values(), key=lambda r: ([*KINDS].index(r.kind), r.entry))
    out = io.StringIO()
    writer = csv.DictWriter(out, [*COLUMNS, "note"], lineterminator="\n")
    writer.writeheader()
    for row in ordered:
        plain = asdict(row)
        for key in ("ct_dice", "mr_dice"):
            plain[key] = f"{plain[key]:.4f}"
        for key in ("seconds", "memory_mb"):
            plain[key] = f"{plain[key]:.0f}"
        writer.writerow(plain)
    write_text(folder / "survey.csv", out.getvalue())
    write_text(folder / "survey.md", "\n".join(_page(ordered)) + "\n")


def _page(rows: list[Row]) -> Iterator[str]:
    short = [r for r in rows if not min(r.ct_dice, r.mr_dice) >= ENOUGH]
    yield "# Every entry, trained as a federation"
    yield ""
    yield "`make survey` (`tests/benchmarks/survey.py`): two CT and two MRI sites, easy phantoms of"
    yield f"{SIDE[2]} x {SIDE[2]} ({SIDE[3]} cubed where a network exists in 3-D only), ten people a"
    yield f"site, {BUDGET[2]['rounds']} rounds of {BUDGET[2]['steps']} steps"
    yield f"({BUDGET[3]['steps']} in 3-D), weights by the study's seed. Dice of held-out people,"
    yield "mean over sites and two organs; processor seconds of the whole run on one thread, two rows"
    yield "at a time. Phantoms say that a row trains in such a federation, not how good it is."
    yield ""
    yield f"{len(rows) - len(short)} of {len(rows)} reach {ENOUGH} in both modalities."
    for kind, title in KINDS.items():
        held = [row for row in rows if row.kind == kind]
        if not held:
            continue
        yield ""
        yield f"## {title}"
        yield ""
        yield "| entry | CT | MRI | parameters | seconds | memory | |"
        yield "|---|---|---|---|---|---|---|"
        for row in held:
            yield (
                f"| `{row.entry}` | {row.ct_dice:.3f} | {row.mr_dice:.3f} | {row.parameters:,} "
                f"| {row.seconds:.0f} | {row.memory_mb:.0f} MB | {row.note} |"
            )


def main() -> None:
    """Measure what is missing, two at a time, writing the table after each."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(asdict(measure(sys.argv[2], sys.argv[3], Path(sys.argv[4])))))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[])
    for kind, title in (("loss", "losses"), ("network", "networks"), ("scheme", "schemes")):
        parser.add_argument(f"--{title}", dest="kinds", action="append_const", const=kind,
                            help=f"the {title} only")  # fmt: skip
    parser.add_argument("--again", action="store_true", help="also what is in the table")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args()
    wanted = [
        (e, k)
        for k in given.kinds or KINDS
        for e in entries(k)
        if not given.only or e in given.only
    ]
    given.out.mkdir(parents=True, exist_ok=True)
    rows = read_rows(given.out / "survey.csv")
    missing = [
        key for key in wanted if given.again or key not in rows or math.isnan(rows[key].ct_dice)
    ]
    with tempfile.TemporaryDirectory() as held, ThreadPoolExecutor(AT_ONCE) as pool:
        make_data(Path(held))
        futures = [pool.submit(in_child, e, k, Path(held)) for e, k in missing]
        for done, future in enumerate(as_completed(futures), 1):
            row = future.result()
            rows[row.entry, row.kind] = row
            write_rows(given.out, rows)
            print(f"{done} of {len(missing)}: {row.entry} ({row.kind}): CT {row.ct_dice:.3f}, "
                  f"MRI {row.mr_dice:.3f}, {row.seconds:.0f} s {row.note}", flush=True)  # fmt: skip
    known = {(e, k) for k in KINDS for e in entries(k)}
    write_rows(given.out, {key: row for key, row in rows.items() if key in known})


if __name__ == "__main__":
    main()
