"""The app bundle that Flower carries: made of the installed fedseg, the same at hub and site.

A site never takes code from the hub. Both sides build the bundle from what they installed; the
same release gives the same bytes, so a site knows the one digest that it lets in.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

PARTS = ("server", "client", "common")
ROOT = Path(__file__).parents[2]
PROJECT = """[project]
name = "fedseg"
version = "{version}"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedseg"
fab-include = ["server/**/*.py", "client/**/*.py", "common/**/*.py"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
run = ""
action = ""
registry = ""
sites = ""
workspace = ""
"""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle's bytes and their SHA-256, hexadecimal."""

    content: bytes
    digest: str


def _files() -> dict[str, bytes]:
    found = {
        str(source.relative_to(ROOT)): source.read_bytes()
        for part in PARTS
        for source in sorted((ROOT / part).rglob("*.py"))
    }
    return found | {"pyproject.toml": PROJECT.format(version=version("fedseg")).encode()}


def build_bundle() -> Bundle:
    """Bundle the installed code."""
    from flwr.cli.build import build_fab_from_files

    content, _ = build_fab_from_files(_files())
    return Bundle(content=content, digest=hashlib.sha256(content).hexdigest())


def write_app(folder: Path) -> None:
    """Write the app that ``flwr run`` bundles; the folder must be called ``fedseg``."""
    if folder.exists():
        shutil.rmtree(folder)
    for name, content in _files().items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def install_bundle(bundle: Bundle, flower_home: Path) -> None:
    """Unpack the bundle where Flower looks first, so that it need not unpack any."""
    from flwr.cli.install import install_from_fab

    before = os.environ.get("FLWR_HOME")
    os.environ["FLWR_HOME"] = str(flower_home)
    try:
        install_from_fab(bundle.content, None, skip_prompt=True)
    finally:
        if before is None:
            del os.environ["FLWR_HOME"]
        else:
            os.environ["FLWR_HOME"] = before
