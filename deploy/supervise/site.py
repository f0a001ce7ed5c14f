"""The processes of a site."""

import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping

from client.hub import use_proxy_settings
from common.files import write_text
from deploy.supervise.bundle import build_bundle, install_bundle
from deploy.supervise.flower import environment
from deploy.supervise.program import Program, port_open, socket_open
from deploy.supervise.site_folder import SiteFolder
from deploy.supervise.supervisor import Supervisor

# a node whose lease was not given back, as in a copied folder, is refused for up to a minute
NODE_PAUSES = (0.2, 5.0, 15.0, 20.0, 20.0)
PROXY_VARIABLES = ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY")


def prepare_site(site: SiteFolder) -> None:
    """Unpack the bundle of this fedseg, name it as the one that may run, draw the secret."""
    bundle = build_bundle()
    apps = site.flower_home("executor")
    install_bundle(bundle, apps)
    write_text(site.allowed_bundle, bundle.digest + "\n")
    if not site.executor_secret.exists():
        handle = os.open(site.executor_secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(32))


def site_programs(site: SiteFolder) -> Mapping[str, Program]:
    """Return what runs at a site, in the order of starting."""
    use_proxy_settings()
    proxy = {name: os.environ[name] for name in PROXY_VARIABLES if name in os.environ}
    python, port, keys = sys.executable, site.settings.runtime_port, site.keys
    worker = Program(
        name="worker",
        command=(
            python, "-m", "client.main_worker", "--profile", str(site.profile),
            "--folder", str(site.path), "--socket", str(site.worker_socket),
        ),
        folder=site.path,
        ready=socket_open(site.worker_socket),
        stop_seconds=20.0,
    )  # fmt: skip
    node = Program(
        name="node",
        command=(
            python, "-m", "deploy.supervise.supernode",
            "--superlink", site.settings.address, "--root-certificates", str(keys.root),
            "--auth-supernode-private-key", str(keys.node_key),
            "--isolation", "process", "--port", str(port),
            "--superexec-auth-secret-file", str(site.executor_secret),
            "--node-config", f'worker="{site.worker_socket}"',
        ),
        folder=site.flower_home("node"),
        environment={
            **environment(site.flower_home("node")), **proxy,
            "FEDSEG_CERTIFICATE": str(keys.certificate), "FEDSEG_KEY": str(keys.tls_key),
            "FEDSEG_BUNDLE": str(site.allowed_bundle),
        },
        # not after the worker: messengers wait for it, and the hub counts who is connected
        ready=port_open(port),
        pauses=NODE_PAUSES,
    )  # fmt: skip
    executor = Program(
        name="executor",
        command=(
            python, "-m", "deploy.supervise.executor", "--insecure",
            "--runtime-api-address", f"127.0.0.1:{port}",
            "--superexec-auth-secret-file", str(site.executor_secret),
        ),
        folder=site.flower_home("executor"),
        environment={
            **environment(site.flower_home("executor")),
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",  # of the node, on loopback
        },
        after=("node",),
    )  # fmt: skip
    agent = Program(
        name="agent",
        command=(python, "-m", "deploy.supervise.agent", str(site.path)),
        folder=site.path,
        environment=proxy,
    )
    metrics = Program(
        name="metrics",
        command=(python, "-m", "deploy.supervise.metrics", str(site.path)),
        folder=site.path,
        ready=port_open(site.settings.metrics_port),
    )
    return {program.name: program for program in (worker, node, executor, agent, metrics)}


def renewal_chore(site: SiteFolder, supervisor: Supervisor) -> Callable[[], None]:
    """Return a chore: start the node anew with a renewed certificate, once it has no work.

    Flower reads the certificate only at the start, and an answer under way would be lost.
    """
    held = {"certificate": site.keys.certificate.stat().st_mtime_ns}

    def renewal() -> None:
        changed = site.keys.certificate.stat().st_mtime_ns
        if changed != held["certificate"] and _is_idle(site):
            held["certificate"] = changed
            supervisor.restart("node")

    return renewal


def _is_idle(site: SiteFolder) -> bool:
    try:
        told = json.loads((site.path / "run" / "agent.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return told.get("worker", {}).get("phase", "idle") in ("", "idle")
