"""The processes of a hub."""

import sys
from collections.abc import Mapping

from deploy.provision.nginx import command as proxy_command
from deploy.supervise.flower import environment, tool
from deploy.supervise.hub_folder import HubFolder
from deploy.supervise.program import Program, port_open, socket_open


def hub_programs(hub: HubFolder) -> Mapping[str, Program]:
    """Return what runs at a hub, in the order of starting."""
    port = hub.settings.superlink_port
    here = hub.path
    listens_everywhere = hub.settings.listen in ("*", "0.0.0.0")  # noqa: S104 - compared
    host = "127.0.0.1" if listens_everywhere else hub.settings.listen
    superlink = Program(
        name="superlink",
        command=(
            tool("flower-superlink"), "--host", "127.0.0.1", "--port", str(port),
            "--ssl-ca-certfile", str(hub.root),
            "--ssl-certfile", str(hub.pki / "superlink-chain.pem"),
            "--ssl-keyfile", str(hub.pki / "superlink.key"),
            "--enable-supernode-auth", "--disable-runtime-dependency-installation",
            "--database", str(here / "flower" / "state.db"), "--isolation", "process",
            "--superexec-auth-secret-file", str(hub.executor_secret),
        ),
        folder=hub.flower_home("superlink"),
        environment=environment(hub.flower_home("superlink")),
        ready=port_open(port),
    )  # fmt: skip
    executor = Program(
        name="executor",
        command=(
            tool("flower-superexec"), "--root-certificates", str(hub.root),
            "--runtime-api-address", f"127.0.0.1:{port}",
            "--superexec-auth-secret-file", str(hub.executor_secret),
        ),
        folder=hub.flower_home("executor"),
        environment=environment(hub.flower_home("executor")),
        after=("superlink",),
    )  # fmt: skip
    python = sys.executable
    control = Program(
        name="control",
        command=(python, "-m", "deploy.supervise.control", str(here)),
        folder=here,
        ready=socket_open(hub.control_socket),
    )
    registrar = Program(
        name="registrar",
        command=(python, "-m", "deploy.supervise.registrar", str(here)),
        folder=here,
        after=("superlink", "proxy"),
    )
    proxy = Program(
        name="proxy",
        command=tuple(proxy_command(hub.nginx)),
        folder=hub.nginx,
        after=("superlink", "control"),
        ready=port_open(hub.settings.port, host),
    )
    metrics = Program(
        name="metrics",
        command=(python, "-m", "deploy.supervise.metrics", str(here)),
        folder=here,
        ready=port_open(hub.settings.metrics_port),
    )
    programs = (superlink, executor, control, proxy, registrar, metrics)
    return {program.name: program for program in programs}
