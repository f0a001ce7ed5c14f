"""The same project under ``flwr run``: Flower's own simulation on Ray."""

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from deploy.simulation.simulate import run_simulation
from tests.support.federations import built, last_weights, same_bits, small_study

ROOT = Path(__file__).parents[2]
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore",
}  # fmt: skip


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command(name):
    return str(Path(sys.executable).with_name(name))


@contextmanager
def superlink(folder, environment):
    """A SuperLink for simulations on loopback, started in a neutral folder and ended."""
    port = free_port()
    home = Path(environment["FLWR_HOME"])
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    with (folder / "superlink.log").open("wb") as log:
        process = subprocess.Popen(
            [
                command("flower-superlink"),
                "--insecure",
                "--simulation",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            until = time.monotonic() + 60
            while time.monotonic() < until:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
            process.wait(20)


def test_flwr_run_ends_with_the_weights_of_the_grid_in_one_process(sites, tmp_path):
    study = small_study(rounds=2)
    inline = built(study, sites, tmp_path / "inline")
    run_simulation(inline)
    ray = built(study, sites, tmp_path / "ray")
    project = tmp_path / "fedseg"
    for part in ("server", "client", "common"):
        shutil.copytree(
            ROOT / part, project / part, ignore=shutil.ignore_patterns("__pycache__")
        )
    for part in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / part, project / part)
    neutral = tmp_path / "neutral"
    neutral.mkdir()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | QUIET | {"FLWR_HOME": str(tmp_path / "home"), "PATH": path}
    # Flower starts its other commands by their bare names
    config = (
        f'run="{ray}" sites="{";".join(map(str, sites))}" workspace="{tmp_path / "workspace"}"'
    )

    with superlink(neutral, environment):
        done = subprocess.run(
            [
                command("flwr"),
                "run",
                str(project),
                "here",
                "--stream",
                "--run-config",
                config,
                "--federation-config",
                "num-supernodes=4 client-resources-num-cpus=1",
            ],
            cwd=neutral,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    assert (ray / "journal" / "final.json").exists(), done.stdout[-3000:] + done.stderr[-3000:]
    assert same_bits(last_weights(inline), last_weights(ray))
