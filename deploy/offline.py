"""``python -m deploy.offline FOLDER``: all that a machine without a network needs for fedseg.

::

    wheels/            fedseg and every package it needs, in the versions of constraints.txt
    requirements.txt   the same, each with its version and the SHA-256 of its wheel
    images.txt         container images, for whom containers are easier
    deploy/, docs/     units, compose files, manifests; what to do with them
    INSTALL.txt        the commands to type; there is no script to trust
    SHA256SUMS         of every file

Made where there is a network, on the same kind of machine (processor, Python) as the one that
it is for.
"""

import hashlib
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.errors import InputError, RunError
from common.files import write_text

ROOT = Path(__file__).parents[1]
TORCH = "torch==2.13.0"
COPIED = ("deploy/systemd", "deploy/compose", "deploy/docker", "deploy/kubernetes", "docs")
SUMS = "SHA256SUMS"
IMAGES = """\
# Built from the checkout (deploy/docker), or taken from your registry:
fedseg-hub:{version}
fedseg-site:{version}
# Their base, to build them where there is no network:
python:3.11-slim-bookworm
#
# There:  docker save --output images.tar fedseg-hub:{version} fedseg-site:{version}
# Here:   docker load --input images.tar
"""
INSTALL = """\
fedseg {version}, for Python {python} on {system} {machine}

 1. Compare the SHA-256 of SHA256SUMS with the one that you were told by another way:
        sha256sum SHA256SUMS
 2. Compare everything else with it:
        sha256sum --check --quiet SHA256SUMS
 3. Install, without a network:
        python{python} -m venv /opt/fedseg
        /opt/fedseg/bin/python -m pip install --no-index --find-links wheels \\
            --require-hashes --requirement requirements.txt
 4. Look:
        /opt/fedseg/bin/fedseg --help
        /opt/fedseg/bin/fedseg doctor
 5. Go on with docs/runbook-hub.md at the hub, docs/runbook-it.md at a hospital.

The hub also needs nginx, from your distribution (nginx-light is enough). For a hub alone,
without torch and MONAI, install fedseg with --no-deps and what
deploy/docker/hub-requirements.txt lists.
"""


def collect(target: Path, source: Path = ROOT) -> None:
    """Write the bundle.

    Args:
        target: A folder that does not exist yet.
        source: A checkout of fedseg.

    Raises:
        InputError: If the folder exists, or ``source`` is no checkout.
        RunError: If pip cannot bring or build something.
    """
    if target.exists():
        raise InputError(f"{target}: exists already; choose another folder")
    if not (source / "constraints.txt").exists():
        raise InputError(f"{source}: is no checkout of fedseg; it has no constraints.txt")
    wheels = target / "wheels"
    wheels.mkdir(parents=True)
    _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(source))
    own = next(wheels.glob("fedseg-*.whl"))
    constraints = str(source / "constraints.txt")
    # `wheel` downloads as `download` does, and builds the few packages that come as source
    _pip("wheel", "--constraint", constraints, "--wheel-dir", str(wheels), TORCH, str(own))
    write_text(target / "requirements.txt", "".join(sorted(requirements(wheels.glob("*.whl")))))
    told = {
        "version": own.name.split("-")[1],
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "system": platform.system(),
        "machine": platform.machine(),
    }
    write_text(target / "images.txt", IMAGES.format(**told))
    write_text(target / "INSTALL.txt", INSTALL.format(**told))
    for name in COPIED:
        shutil.copytree(
            source / name, target / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    write_text(target / SUMS, "".join(sums(target)))


def requirements(wheels: Iterator[Path]) -> Iterator[str]:
    """Yield a line for each wheel: package, version, SHA-256."""
    for wheel in wheels:
        name, version = wheel.name.split("-")[:2]
        package = re.sub(r"[-_.]+", "-", name).lower()
        yield f"{package}=={version} --hash=sha256:{_digest(wheel)}\n"


def sums(folder: Path) -> Iterator[str]:
    """Yield what ``sha256sum`` would say of every file, in the order of their names."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != SUMS:
            yield f"{_digest(path)}  {path.relative_to(folder)}\n"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"pip {arguments[0]}: {done.stderr.strip()[-1500:]}")


def main(arguments: Sequence[str]) -> None:
    """Write the bundle into the folder that is named."""
    if len(arguments) != 1:
        sys.exit("usage: python -m deploy.offline FOLDER")
    target = Path(arguments[0])
    try:
        collect(target)
    except (InputError, RunError) as error:
        sys.exit(f"offline: {error}")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    digest = _digest(target / SUMS)
    sys.stdout.write(f"{target}: {size:,} bytes\nSHA-256 of its {SUMS}: {digest}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
