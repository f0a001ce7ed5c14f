"""What federating costs over a bare loop that does the same steps and validations.

Two sites, MONAI's 3-D U-Net 16-32-64-128, 8 volumes of 48^3 a site, batch 2, 3 rounds, every
site's validation cases scored on each round's weights. The two are whole processes, imports
included, in turn; and from the first round's start to the last one's end within them.

    python tests/benchmarks/federating_cost.py [--json FILE] [--repeats N]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

SITES, VOLUMES, SIDE, ROUNDS, STEPS, BATCH = 2, 8, 48, 3, 4, 2
STUDY = f"""
name: cost
dimensions: 3
labels: [blob]
modalities: {{mr: {{intensity: arbitrary}}}}
network: {{name: unet, channels: [16, 32, 64, 128], strides: [2, 2, 2], norm: instance}}
training: {{steps: {STEPS}, batch: {BATCH}, patch: [{SIDE}, {SIDE}, {SIDE}], learning_rate: 1e-3}}
augmentation: {{probability: 0.0}}
federation: {{rounds: {ROUNDS}}}
distillation: {{weight: 0.0}}
sharing: {{norm: everything}}
evaluation: {{validation: 0.2, test: 0.0, local: false}}
"""


def make_data(folder: Path) -> list[Path]:
    """Write blobs in noise as two sites' datasets, 6 volumes to train and 2 to validate."""
    import nibabel as nib
    import numpy as np

    rng = np.random.default_rng(1)
    profiles = []
    for site in range(SITES):
        root = folder / f"site{site}"
        (root / "imagesTr").mkdir(parents=True)
        (root / "labelsTr").mkdir()
        rows = ["case\tsubject\tsplit"]
        for i in range(VOLUMES):
            center = rng.uniform(14, 34, 3)
            grid = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"), -1)
            label = (((grid - center) ** 2).sum(-1) < 80).astype(np.uint8)
            image = (rng.normal(100, 20, label.shape) + 60 * label).astype(np.float32)
            nib.save(nib.Nifti1Image(image, np.eye(4)), root / "imagesTr" / f"c{i}_0000.nii.gz")
            nib.save(nib.Nifti1Image(label, np.eye(4)), root / "labelsTr" / f"c{i}.nii.gz")
            rows.append(f"c{i}\tp{i}\t{'train' if i < 6 else 'validation'}")
        (root / "cases.tsv").write_text("\n".join(rows) + "\n")
        (root / "dataset.json").write_text(json.dumps(
            {"channel_names": {"0": "MR"}, "labels": {"background": 0, "blob": 1},
             "numTraining": VOLUMES, "file_ending": ".nii.gz"}))  # fmt: skip
        profile = folder / f"site{site}.yaml"
        profile.write_text(
            f"name: site{site}\ndatasets:\n- {{folder: site{site}, modality: mr}}\nthreads: 1\n"
        )
        profiles.append(profile)
    (folder / "study.yaml").write_text(STUDY)
    return profiles


def bare(folder: Path) -> None:
    """Train the same network on the same volumes with a loop of twenty lines; no federation."""
    import nibabel as nib
    import numpy as np
    import torch
    from monai.inferers.utils import sliding_window_inference
    from monai.losses.dice import DiceCELoss
    from monai.networks.nets.unet import UNet

    torch.set_num_threads(1)
    torch.manual_seed(1)
    data = []
    for site in range(SITES):
        root = folder / f"site{site}"
        cases = []
        for i in range(VOLUMES):
            image = np.asarray(
                nib.load(root / "imagesTr" / f"c{i}_0000.nii.gz").dataobj, np.float32
            )
            label = np.asarray(nib.load(root / "labelsTr" / f"c{i}.nii.gz").dataobj)
            cases.append((torch.from_numpy((image - image.mean()) / image.std())[None],
                          torch.from_numpy(label.astype(np.int64))[None]))  # fmt: skip
        data.append(cases)
    network = UNet(spatial_dims=3, in_channels=1, out_channels=2, channels=(16, 32, 64, 128), strides=(2, 2, 2),
                   num_res_units=2, norm=("instance", {"affine": True}))  # fmt: skip
    loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    optimizers = [
        torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-5)
        for _ in range(SITES)
    ]
    rng = np.random.default_rng(1)
    started = time.perf_counter(), time.process_time()
    for number in range(1, ROUNDS + 2):
        for site, optimizer in enumerate(optimizers):
            if number > 1:
                with torch.no_grad():
                    network.eval()
                    for image, label in data[site][6:]:
                        scores = sliding_window_inference(
                            image[None], (SIDE,) * 3, BATCH, network, 0.5, mode="gaussian"
                        )
                        (scores.argmax(1) == label).sum()
            if number > ROUNDS:
                continue
            network.train()
            for _ in range(STEPS):
                picked = rng.integers(0, 6, BATCH)
                x = torch.stack([data[site][i][0] for i in picked])
                y = torch.stack([data[site][i][1] for i in picked])
                optimizer.zero_grad(set_to_none=True)
                loss(network(x), y).backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
                optimizer.step()
        if number == ROUNDS:
            rounds = time.perf_counter() - started[0], time.process_time() - started[1]
    print(json.dumps({"round_wall": rounds[0], "round_cpu": rounds[1]}))


def federated(folder: Path, out: Path) -> None:
    """Run the same job as ``fedseg simulate`` does and print what its journal measured."""
    from deploy.cli.main import app

    sites = [
        part for site in range(SITES) for part in ("--site", str(folder / f"site{site}.yaml"))
    ]
    app(
        ["simulate", str(folder / "study.yaml"), *sites, "--out", str(out), "--quiet"],
        standalone_mode=False,
    )


def usage(arguments: list[str]) -> dict[str, float]:
    """Run a child to its end; return CPU seconds, wall seconds and peak MB of the whole process."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-W", "ignore", __file__, *arguments], stdout=subprocess.PIPE,
                               env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True)  # fmt: skip
    output = process.stdout.read() if process.stdout else ""
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{arguments[0]} failed: {output}")
    return {
        "cpu": used.ru_utime + used.ru_stime,
        "wall": time.perf_counter() - started,
        "peak_mb": used.ru_maxrss / 1e3,
        "output": output,
    }  # type: ignore[dict-item]


def rounds_of(run: Path) -> dict[str, float]:
    """Read from a journal the time between the first round's start and the last one's end."""
    rounds = [
        json.loads(p.read_text())["record"]
        for p in sorted((run / "journal").glob("round-*.json"))
    ]
    return {"round_wall": sum(r["seconds"] + r["gap_seconds"] for r in rounds) - rounds[0]["gap_seconds"],
            "gap": max(r["gap_seconds"] for r in rounds[1:]), "digest": rounds[-1]["digest"]}  # fmt: skip


def main() -> None:
    """Measure in pairs, print a table, and the ratio of whole processes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs="+")
    given = parser.parse_args()
    if given.child:
        {"bare": bare, "federated": federated}[given.child[0]](*map(Path, given.child[1:]))
        return
    pairs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder)
        for i in range(given.repeats + 1):
            one = usage(["--child", "bare", str(folder)])
            two = usage(["--child", "federated", str(folder), str(folder / f"run{i}")])
            one |= json.loads(one.pop("output"))  # type: ignore[arg-type]
            two |= rounds_of(folder / f"run{i}")
            del two["output"]
            if i:  # the first pair warms the disk
                pairs.append((one, two))
    print("pair         cpu s   wall s   rounds s   gap s   peak MB")
    for one, two in pairs:
        print(
            f"bare       {one['cpu']:7.2f}  {one['wall']:7.2f}  {one['round_wall']:9.2f}       -  {one['peak_mb']:8.0f}"
        )
        print(
            f"federated  {two['cpu']:7.2f}  {two['wall']:7.2f}  {two['round_wall']:9.2f}  {two['gap']:6.3f}  {two['peak_mb']:8.0f}"
        )
    whole = statistics.median(two["cpu"] / one["cpu"] for one, two in pairs)
    within = statistics.median(two["round_wall"] / one["round_wall"] for one, two in pairs)
    print(f"same seed, same bits: {len({two['digest'] for _, two in pairs}) == 1}")
    print(
        f"rounds: {within:.3f} x; peak {max(two['peak_mb'] for _, two in pairs) / 1.048576 / 1024:.3f} GiB"
    )
    if given.json:
        given.json.write_text(
            json.dumps({"pairs": pairs, "whole": whole, "rounds": within}, indent=1)
        )
    print(f"federating_cost: {whole:.3f} x the CPU seconds of a bare loop")


if __name__ == "__main__":
    main()
