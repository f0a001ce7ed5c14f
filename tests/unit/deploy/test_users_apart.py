"""Proxy, registrar and parts without keys, where each process has a user of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from common.errors import RunError
from deploy.provision.authority import Authorities
from deploy.provision.nginx import write_bindings
from deploy.supervise.desk import make_hub
from deploy.supervise.hub_folder import HubFolder, HubSettings
from deploy.supervise.site_folder import SiteFolder, free_port
from deploy.systemd import keyless, registrar
from deploy.systemd.proxy import IN_FORCE, inputs_of
from tests.support.deployment import NEEDS_NGINX, new_site
from tests.support.studies import ROOT


def wait_until(test, seconds=20):
    until = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < until
        time.sleep(0.05)


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def in_force(hub):
    try:
        return (hub.nginx / IN_FORCE).read_text().strip()
    except FileNotFoundError:
        return ""


@pytest.fixture
def proxied(tmp_path):
    settings = HubSettings(address=f"localhost:{free_port()}", listen="127.0.0.1")
    hub = make_hub(tmp_path / "hub", settings)
    command = [sys.executable, "-m", "deploy.systemd.proxy", str(hub.path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: in_force(hub))
        yield hub, process
    finally:
        process.kill()
        process.communicate()


@NEEDS_NGINX
def test_the_proxy_takes_what_the_registrar_writes_and_says_so(proxied):
    hub, process = proxied
    before = in_force(hub)

    write_bindings(hub.nginx, [("A", "A" * 80)])
    registrar.wait_for_proxy(hub.nginx)

    assert in_force(hub) == inputs_of(hub.nginx) != before
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


@NEEDS_NGINX
def test_what_nginx_does_not_like_never_counts_as_in_force(proxied, monkeypatch):
    hub, _ = proxied
    before = in_force(hub)
    monkeypatch.setattr(registrar, "WAIT_SECONDS", 2.0)

    (hub.nginx / "bind.map").write_text("this is no map {")

    with pytest.raises(RunError, match="has not taken"):
        registrar.wait_for_proxy(hub.nginx)
    assert in_force(hub) == before


@NEEDS_NGINX
def test_when_nginx_ends_by_itself_so_does_the_proxy(proxied):
    hub, process = proxied

    os.kill(int((hub.nginx / "nginx.pid").read_text()), signal.SIGKILL)

    assert process.wait(20) != 0
    wait_until(lambda: not is_open(hub.settings.port))


@NEEDS_NGINX
def test_when_the_proxy_is_killed_nginx_ends_too(proxied):
    hub, process = proxied

    process.kill()

    wait_until(lambda: not is_open(hub.settings.port))


@pytest.mark.parametrize("part", ["worker", "executor"])
def test_worker_and_messenger_start_where_keys_are_out_of_sight(tmp_path, monkeypatch, part):
    hub = make_hub(tmp_path / "hub", HubSettings(address="localhost:8443"))
    site = new_site(tmp_path / "site", Authorities.open(hub.pki))
    shutil.rmtree(site.path / "keys")
    became, held = [], vars(SiteFolder)["keys"]
    monkeypatch.setattr(keyless, "become", lambda programs, name: became.append(programs[name]))
    monkeypatch.setattr(sys, "argv", ["keyless", part, str(site.path)])
    try:
        keyless.main()
    finally:
        SiteFolder.keys = held

    assert [program.name for program in became] == [part]
    assert not any("keys" in word for word in became[0].command)


@pytest.mark.parametrize("arguments", [[], ["node", "site"], ["worker", "nowhere"]])
def test_a_part_that_needs_keys_is_not_started_without(monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["keyless", *arguments])

    with pytest.raises(SystemExit, match="keyless: "):
        keyless.main()


@NEEDS_NGINX
def test_the_proxy_keeps_its_logs_short(proxied):
    hub, _ = proxied
    log = hub.nginx / "logs" / "access.log"
    with log.open("ab") as file:
        file.truncate(21_000_000)

    wait_until(lambda: log.exists() and log.stat().st_size == 0)

    assert log.with_name("access.log.1").stat().st_size == 21_000_000


def test_the_registrar_beside_a_proxy_leaves_signals_to_it(monkeypatch):
    names = ("reload", "rotate_logs")
    held = {name: vars(registrar.registrar)[name] for name in names}
    monkeypatch.setattr(registrar.registrar, "main", lambda: None)
    try:
        registrar.main()

        assert registrar.registrar.reload is registrar.wait_for_proxy
        assert registrar.registrar.rotate_logs("nowhere") is None
    finally:
        vars(registrar.registrar).update(held)


def test_a_proxy_that_was_never_there_is_told(tmp_path, monkeypatch):
    hub = make_hub(tmp_path / "hub", HubSettings(address="localhost:8443"))
    monkeypatch.setattr(registrar, "WAIT_SECONDS", 0.0)

    with pytest.raises(RunError, match="does it run"):
        registrar.wait_for_proxy(hub.nginx)
    (hub.pki / "crl.pem").unlink()
    with pytest.raises(RunError, match=r"crl\.pem"):
        inputs_of(hub.nginx)
    assert HubFolder.open(hub.path)
