"""Flower's own commands, asked for JSON: nodes and runs of a SuperLink on this machine."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from common.errors import RunError
from common.files import write_text

QUIET: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
    "PYTHONWARNINGS": "ignore",
    "NO_COLOR": "1",
}
COMMAND_SECONDS = 60
CONFIGURATION = "config.toml"


def tool(name: str) -> str:
    """Return the path of a command that was installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


def environment(home: Path) -> dict[str, str]:
    """Return what each of Flower's processes needs: its home, quiet, our tools on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**QUIET, "FLWR_HOME": str(home), "PATH": path}


@dataclass(frozen=True, kw_only=True)
class FlowerRun:
    """One run as Flower sees it: its name there, its state, how it ended."""

    name: str
    state: str
    details: str


@final
class Flower:
    """The SuperLink of a hub.

    Args:
        home: Folder for Flower's configuration.
        address: ``host:port`` on loopback.
        root: Certificate that vouches for it.
    """

    def __init__(self, home: Path, address: str, root: Path) -> None:
        self._home, self._address = home, address
        home.mkdir(parents=True, exist_ok=True)
        self._configuration = (
            f'[superlink]\ndefault = "hub"\n[superlink.hub]\naddress = "{address}"\n'
            f'root-certificates = "{root.resolve()}"\n'
        )
        write_text(home / CONFIGURATION, self._configuration)

    def register(self, public_key: Path, site: str) -> str:
        """Make a node known by its public key; return Flower's name of it.

        Raises:
            RunError: With Flower's own words.
        """
        answer = self._ask("supernode", "register", str(public_key), "hub", "--name", site)
        return str(answer["node-id"])

    def unregister(self, node: str) -> None:
        """Cut a node off; whoever waits for it hears so at once."""
        self._ask("supernode", "unregister", node, "hub")

    def start(self, app: Path, settings: Mapping[str, str]) -> str:
        """Start a run of an app; return Flower's name of it."""
        config = " ".join(f'{key}="{value}"' for key, value in settings.items())
        answer = self._ask("run", str(app), "hub", "--run-config", config)
        return str(answer["run-id"])

    def stop(self, run: str) -> None:
        """Stop a run."""
        self._ask("stop", run, "hub")

    def runs(self) -> dict[str, FlowerRun]:
        """Return all runs by Flower's name of them."""
        answer = self._ask("ls", "hub")
        return {
            str(row["run-id"]): FlowerRun(
                name=str(row["run-id"]),
                state=str(row["status"]),
                details=str(row.get("details", "")),
            )
            for row in answer["runs"]
        }

    def _configure(self) -> None:
        """Write the configuration again where it cannot be used.

        Flower writes it in place, so that a full disk leaves it empty.
        """
        file = self._home / CONFIGURATION
        try:
            held = tomllib.loads(file.read_text(encoding="utf-8"))
            is_there = held["superlink"]["hub"]["address"] == self._address
        except (OSError, ValueError, KeyError, TypeError):
            is_there = False
        if not is_there:
            write_text(file, self._configuration)

    def _ask(self, *arguments: str) -> dict[str, Any]:
        self._configure()
        done = subprocess.run(
            [tool("flwr"), *arguments, "--format", "json"],
            env={**os.environ, **environment(self._home)},
            cwd=self._home,  # a neutral folder: Flower imports from where it stands
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        text = done.stdout[done.stdout.find("{") :]
        try:
            answer: dict[str, Any] = json.loads(text)
        except ValueError:
            answer = {}
        if done.returncode or not answer.get("success", False):
            story = str(answer.get("error-message") or done.stderr or done.stdout).strip()
            raise RunError(f"flwr {arguments[0]} {arguments[1]}: {story[-500:]}")
        return answer
