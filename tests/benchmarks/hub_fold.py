"""Closing a round at the hub: memory must not grow with the number of sites.

Folds 2, 8 and 32 updates of 120 MB, each count in a process of its own, and compares the speed
with a plain copy of as many bytes in the same run. Nothing but NumPy works here.

    python tests/benchmarks/hub_fold.py [--json FILE]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from common.parameters import Parameter, save_weights
from server.folding import Contribution, fold

TENSORS, ELEMENTS = 60, 500_000  # 60 tensors of 2 MB: 30 M numbers, 120 MB
COUNTS = (2, 8, 32)
MODEL_MB = TENSORS * ELEMENTS * 4 / 1e6
PIECE = 1 << 20


def table():
    """The names and kinds of a made-up network of 120 MB."""
    return {
        f"layer{i:02d}": Parameter(f"layer{i:02d}", (ELEMENTS,), "float32", "shared")
        for i in range(TENSORS)
    }


def make_updates(folder: Path) -> None:
    """Write the weights before and the updates of 32 sites."""
    rng = np.random.default_rng(1)
    names = table()
    for site in range(max(COUNTS) + 1):
        weights = {name: rng.standard_normal(ELEMENTS, dtype=np.float32) for name in names}
        save_weights(folder / f"{site:02d}.safetensors", weights, names, {})


def fold_once(folder: Path, sites: int) -> dict[str, float]:
    """Fold in this process; return seconds and memory in MB."""
    before = peak_mb()
    updates = {
        f"{s:02d}": Contribution(
            file=folder / f"{s:02d}.safetensors", cases={"ct": s + 1}, annotated=()
        )
        for s in range(sites)
    }
    started = time.perf_counter()
    fold(updates, table(), folder / f"{max(COUNTS):02d}.safetensors", folder / f"after-{sites}.safetensors",
         balance_modalities=True, metadata={})  # fmt: skip
    return {"seconds": time.perf_counter() - started, "peak_mb": peak_mb(), "before_mb": before}


def copy_once(folder: Path, sites: int) -> float:
    """Copy the same bytes into memory and one model's worth out, piece by piece; seconds."""
    started = time.perf_counter()
    for site in range(sites):
        with (
            (folder / f"{site:02d}.safetensors").open("rb") as source,
            (folder / "copy").open("wb") as target,
        ):
            while piece := source.read(PIECE):
                if site == 0:
                    target.write(piece)
    return time.perf_counter() - started


def peak_mb() -> float:
    """Peak resident memory since this program began, MB (rusage would count its parent's)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(x for x in status.splitlines() if x.startswith("VmHWM")).split()[1]) / 1e3


def measure(folder: Path, sites: int) -> dict[str, float]:
    """Fold in a fresh process, so that each count has its own peak."""
    done = subprocess.run([sys.executable, __file__, "--child", str(folder), "--sites", str(sites)],
                          check=True, capture_output=True, text=True)  # fmt: skip
    row = {"sites": sites, **json.loads(done.stdout)}
    copied = copy_once(folder, sites)
    gigabytes = sites * MODEL_MB / 1e3
    return row | {"gb_per_s": gigabytes / row["seconds"], "copy_gb_per_s": gigabytes / copied}


def main() -> None:
    """Measure, print a table, and the ratio of the largest peak to the smallest."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=Path)
    parser.add_argument("--sites", type=int)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(fold_once(given.child, given.sites)))
        return
    with tempfile.TemporaryDirectory() as name:
        make_updates(Path(name))
        rows = [measure(Path(name), sites) for sites in COUNTS]
    print(f"model {MODEL_MB:.0f} MB\nsites  seconds  GB/s  copy GB/s  peak MB  peak/model")
    for r in rows:
        print(f"{r['sites']:5d}  {r['seconds']:7.2f}  {r['gb_per_s']:4.2f}  {r['copy_gb_per_s']:9.2f}  "
              f"{r['peak_mb']:7.0f}  {r['peak_mb'] / MODEL_MB:10.2f}")  # fmt: skip
    peaks = [r["peak_mb"] for r in rows]
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))
    print(f"hub_fold: peak {max(peaks) / min(peaks):.3f} x from 2 to 32 sites, "
          f"{max(peaks) / MODEL_MB:.2f} x the model")  # fmt: skip


if __name__ == "__main__":
    main()
