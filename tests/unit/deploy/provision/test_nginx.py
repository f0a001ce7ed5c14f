import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import InputError, RunError
from deploy.provision import nginx
from deploy.provision.nginx import (
    NginxSettings,
    check,
    command,
    render,
    write_bindings,
    write_configuration,
)
from tests.support.deployment import NEEDS_NGINX


@pytest.fixture
def settings(tmp_path, pki):
    return NginxSettings(
        folder=tmp_path / "nginx",
        pki=pki.files.folder,
        host="127.0.0.1",
        port=8443,
        superlink_port=9092,
        control_socket=Path("/run/fedseg/control.sock"),
    )


def locations(text):
    return re.findall(r"location (.+?) \{", text)


def test_exactly_one_path_is_open_to_strangers(settings):
    text = render(settings)

    assert locations(text) == [
        "@refused",
        "/",
        "= /fedseg.v1.Enrolment/Join",
        "^~ /fedseg.v1.Control/",
        "^~ /v1/fleet/",
    ]
    refused = text.split("$refused {")[1].split("}")[0]
    assert [line.strip() for line in refused.strip().splitlines()] == [
        "default 1;",
        '"~^[^ ]" 0;',
        r'"~^ /fedseg\.v1\.Enrolment/Join$" 0;',
    ]


def test_settings_come_to_their_place(settings):
    text = render(
        replace(settings, host="::", port=443, user="www-data", enrolment_body_bytes=99)
    )

    for line in (
        "user www-data;",
        "listen [::]:443 ssl http2;",
        "client_max_body_size 99;",
        "server 127.0.0.1:9092;",
        "server unix:/run/fedseg/control.sock;",
        f"ssl_crl {settings.pki}/crl.pem;",
    ):
        assert line in text
    assert "user " not in render(settings).split("http {")[0]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"folder": Path("/a b")}, "nginx needs a full path"),
        ({"folder": Path("relative")}, "nginx needs a full path"),
        ({"pki": Path("/a;load_module x")}, "nginx needs a full path"),
        ({"pki": Path("/a$b")}, "nginx needs a full path"),
        ({"control_socket": Path('/a"b')}, "nginx needs a full path"),
        ({"control_socket": Path("/a\nb")}, "nginx needs a full path"),
        ({"control_socket": Path("/" + "a" * 107)}, "longer than the 107 bytes"),
        ({"host": "a;b"}, "is no address to listen on"),
        ({"user": "a b"}, "is no name of a user"),
        ({"port": 0}, "port 0: must be 1 to 65535"),
        ({"superlink_port": 65536}, "port 65536: must be 1 to 65535"),
    ],
)
def test_nothing_that_nginx_would_read_otherwise_comes_in(settings, changes, why):
    with pytest.raises(InputError, match=why):
        replace(settings, **changes)


def test_bindings_are_replaced_whole_and_kept_by_a_new_configuration(settings, keys):
    write_configuration(settings)
    write_bindings(settings.folder, [("site-a", keys.node_header())])
    before = (settings.folder / "bind.map").read_text()

    write_configuration(settings)
    assert (settings.folder / "bind.map").read_text() == before
    assert before.startswith('"~^CN=site\\-a,O=fedseg ')

    write_bindings(settings.folder, [])
    assert (settings.folder / "bind.map").read_text() == ""
    assert list(settings.folder.glob("*.part")) == []


@pytest.mark.parametrize(
    "pair",
    [
        ("site a", "A" * 80),
        ('a" 1; default 1; "', "A" * 80),
        ("site-a", 'A" 1; default 1; "'),
        ("site-a", ""),
        ("site-a", "A" * 80 + "\n"),
        ("site-a", ".*" * 40),
    ],
)
def test_a_binding_that_is_none_changes_nothing(settings, keys, pair):
    write_configuration(settings)
    write_bindings(settings.folder, [("site-a", keys.node_header())])
    before = (settings.folder / "bind.map").read_text()

    with pytest.raises(InputError, match="site"):
        write_bindings(settings.folder, [("site-b", keys.node_header()), pair])

    assert (settings.folder / "bind.map").read_text() == before


@NEEDS_NGINX
def test_nginx_accepts_what_we_write(settings, keys):
    write_configuration(replace(settings, user="root" if os.geteuid() == 0 else None))
    write_bindings(settings.folder, [(f"site-{i}", keys.node_header()) for i in range(100)])

    check(settings.folder)


@NEEDS_NGINX
def test_nginx_says_itself_what_is_wrong(settings):
    write_configuration(settings)
    (settings.pki / "crl.pem").write_text("x")

    with pytest.raises(RunError, match=r"nginx: .*\[emerg\].*crl\.pem"):
        check(settings.folder)


@NEEDS_NGINX
def test_a_broken_list_never_reaches_a_running_nginx(settings, monkeypatch):
    write_configuration(settings)
    (settings.pki / "crl.pem").write_text("x")
    ran = []
    run = nginx._run
    monkeypatch.setattr(nginx, "_run", lambda words: (ran.append(words), run(words)))

    with pytest.raises(RunError, match="emerg"):
        nginx.reload(settings.folder)

    assert [words[-1] for words in ran] == ["-t"]


@NEEDS_NGINX
def test_there_is_nothing_to_reload_before_nginx_runs(settings):
    write_configuration(replace(settings, user="root" if os.geteuid() == 0 else None))

    with pytest.raises(RunError, match="nginx does not run; start the hub"):
        nginx.reload(settings.folder)


@NEEDS_NGINX
def test_nginx_runs_in_the_foreground_under_a_supervisor(settings):
    words = command(settings.folder)

    assert words[-2:] == ["-g", "daemon off;"]
    assert str(settings.folder / "nginx.conf") in words


@NEEDS_NGINX
def test_a_pid_that_a_crash_left_behind_is_told(settings):
    write_configuration(replace(settings, user="root" if os.geteuid() == 0 else None))
    (settings.folder / "nginx.pid").write_text("999999999\n")

    with pytest.raises(RunError, match="No such process"):
        nginx.reload(settings.folder)


def test_a_folder_that_cannot_be_made_is_told(settings, tmp_path):
    (tmp_path / "nginx").touch()

    with pytest.raises(RunError, match="nginx: cannot be made"):
        write_configuration(settings)


def test_a_missing_nginx_is_told(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nginx, "SBIN", ())

    with pytest.raises(RunError, match=r"is not installed; install it"):
        check(settings.folder)


# --- logs ----------------------------------------------------------------------------------------


@pytest.fixture
def logging_nginx(settings, monkeypatch):
    """A running nginx of which only its logs and its signals can be seen."""
    write_configuration(settings)
    logs, ran = settings.folder / "logs", []
    (settings.folder / "nginx.pid").write_text("1\n")
    monkeypatch.setattr(nginx, "_nginx", lambda _: ["nginx"])

    def run(words):
        ran.append(words[-1])
        for name in ("access.log", "error.log"):
            (logs / name).touch()

    monkeypatch.setattr(nginx, "_run", run)
    monkeypatch.setattr(nginx, "LARGEST_LOG_BYTES", 10)
    run([""])
    ran.clear()
    return settings.folder, logs, ran


def test_a_log_that_grew_large_is_put_aside_and_begun_anew(logging_nginx):
    folder, logs, ran = logging_nginx
    for number in range(6):
        (logs / "access.log").write_text(f"number {number:04d}")
        nginx.rotate_logs(folder)

    kept = {path.name: path.read_text() for path in logs.glob("access.log*")}
    assert kept == {
        "access.log": "",
        "access.log.1": "number 0005",
        "access.log.2": "number 0004",
        "access.log.3": "number 0003",
    }
    assert ran == ["reopen"] * 6


def test_a_short_log_is_left_alone(logging_nginx):
    folder, logs, ran = logging_nginx
    (logs / "error.log").write_text("short")

    nginx.rotate_logs(folder)

    assert (ran, (logs / "error.log").read_text()) == ([], "short")


def test_a_log_that_was_put_aside_before_a_crash_is_begun_anew(logging_nginx):
    folder, logs, ran = logging_nginx
    (logs / "access.log").rename(logs / "access.log.1")

    nginx.rotate_logs(folder)

    assert ran == ["reopen"]


def test_logs_of_an_nginx_that_does_not_run_are_left_alone(logging_nginx):
    folder, logs, ran = logging_nginx
    (folder / "nginx.pid").unlink()
    (logs / "access.log").write_text("a long one of before")

    nginx.rotate_logs(folder)

    assert ran == []
    assert not (logs / "access.log.1").exists()


def test_a_log_that_cannot_be_put_aside_is_told(logging_nginx):
    folder, logs, _ = logging_nginx
    (logs / "access.log").write_text("a long one")
    (logs / "access.log").write_text("a longer one")
    (logs / "access.log.2").touch()
    (logs / "access.log.3").mkdir()

    with pytest.raises(RunError, match="cannot be put aside"):
        nginx.rotate_logs(folder)
