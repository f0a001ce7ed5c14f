"""A hub goes into one archive and comes out the same; anything else is refused, unwritten."""

import hashlib
import io
import json
import os
import sqlite3
import stat
import subprocess
import sys
import tarfile
from dataclasses import asdict

import pytest
import typer
from typer.testing import CliRunner

from common.errors import InputError, RunError
from deploy.cli import hub_backup
from deploy.supervise import backup
from deploy.supervise.backup import back_up, restore
from deploy.supervise.desk import make_hub
from deploy.supervise.hub_folder import HubSettings
from server.journal import Journal
from server.registry import ADMITTED, RUNNING, RunRow, SiteRow
from server.run import write_run
from tests.support.journals import run_info
from tests.support.studies import ROOT, update

WRITER = """
import sys
from pathlib import Path
from server.registry import Registry, SiteRow
registry = Registry(Path(sys.argv[1]))
number = 0
print("writing", flush=True)
while True:  # pairs: a copy in mid-transaction would show an odd number of rows
    number += 1
    with registry._open() as db:
        for half in "ab":
            db.execute("INSERT INTO site (name, state) VALUES (?, 'invited')", (f"{number}{half}",))
"""


@pytest.fixture
def hub(tmp_path):
    made = make_hub(tmp_path / "hub", HubSettings(address="localhost:8443", listen="127.0.0.1"))
    folder = made.runs / "20270101-kidneys"
    folder.mkdir()
    write_run(folder, run_info(run=folder.name))
    (folder / "hub.jsonl").write_text("a log\n")
    sent = update("A", round=1)
    Journal(folder).accept(sent.report, sent.weights, norm=1.0, traffic=(1, 2), seconds=0.1)
    (folder / "models" / "round-0001.safetensors").write_bytes(os.urandom(100_000))
    made.registry.put(SiteRow, {"name": "A"}, state=ADMITTED, node_id="17", serial="AB")
    made.registry.put(
        RunRow, {"run": folder.name}, hash="0" * 64, folder=str(folder), state=RUNNING,
        wanted=RUNNING, created=1.0,
    )  # fmt: skip
    with sqlite3.connect(made.path / "flower" / "state.db") as db:
        db.execute("CREATE TABLE node (key TEXT)")
        db.execute("INSERT INTO node VALUES ('ssh-key')")
    db.close()
    (made.path / "log" / "control.jsonl").write_text("a log\n")
    return made


@pytest.fixture
def archive(hub, tmp_path):
    target = tmp_path / "hub.tar"
    back_up(hub, target)
    return target


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".db"
    }


def rows_of(registry):
    return [registry.rows(SiteRow), registry.rows(RunRow)]


# --- there and back ----------------------------------------------------------------------


def test_a_restored_hub_has_the_same_rows_and_the_same_bits(hub, archive, tmp_path):
    made = restore(archive, tmp_path / "other" / "hub", clock=lambda: 5.0)

    sites, runs = rows_of(made.registry)
    assert sites == hub.registry.rows(SiteRow)
    assert runs[0].folder == str(made.runs / runs[0].run)
    before, after = files_of(hub.path), files_of(made.path)
    changed = {name for name in before if before[name] != after.get(name)}
    left_out = {"log/control.jsonl", "runs/20270101-kidneys/hub.jsonl"}
    assert changed - {name for name in before if name.endswith(".lock")} == left_out | {
        "nginx/nginx.conf"
    }
    assert Journal(made.runs / runs[0].run).accepted(1) == Journal(
        hub.runs / runs[0].run
    ).accepted(1)
    with sqlite3.connect(made.path / "flower" / "state.db") as db:
        assert db.execute("SELECT key FROM node").fetchall() == [("ssh-key",)]
    db.close()


def test_a_restored_hub_says_so_and_its_proxy_knows_the_new_place(hub, archive, tmp_path):
    made = restore(archive, tmp_path / "other" / "hub", clock=lambda: 5.0)

    told = json.loads((made.path / "restored.json").read_text())
    assert told["restored"] == 5.0
    assert told["backup_made"] == pytest.approx(archive.stat().st_mtime, abs=60)
    text = (made.nginx / "nginx.conf").read_text()
    assert str(made.path) in text
    assert str(hub.path) not in text.replace(str(made.path), "")


def test_an_archive_and_what_comes_out_of_it_are_for_their_owner_alone(archive, tmp_path):
    made = restore(archive, tmp_path / "restored")

    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert [p for p in made.path.rglob("*") if p.stat().st_mode & 0o077] == []


def test_a_backup_is_consistent_while_another_process_writes(hub, tmp_path):
    command = [sys.executable, "-c", WRITER, str(hub.registry.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as writer:
        writer.stdout.readline()
        try:
            for number in range(3):
                back_up(hub, tmp_path / f"{number}.tar")
        finally:
            writer.kill()

    counts = []
    for number in range(3):
        made = restore(tmp_path / f"{number}.tar", tmp_path / str(number))
        names = [site.name for site in made.registry.rows(SiteRow, state="invited")]
        assert len(names) % 2 == 0
        counts.append(len(names))
    assert counts == sorted(counts)
    assert counts[-1] > 0


def test_a_run_that_changes_meanwhile_is_copied_as_it_was_at_one_moment(
    hub, tmp_path, monkeypatch
):
    run = next(hub.runs.iterdir())
    real, done = backup._link, []

    def link(source, target):
        if not done and source.name == "run.json":
            done.append((run / "journal" / "round-0001.json").write_text("{}"))
        real(source, target)

    monkeypatch.setattr(backup, "_link", link)

    manifest = back_up(hub, tmp_path / "hub.tar")

    assert f"runs/{run.name}/journal/round-0001.json" in manifest.files


def test_a_file_that_is_let_go_of_meanwhile_does_no_harm(hub, tmp_path, monkeypatch):
    run = next(hub.runs.iterdir())
    real, gone = backup._link, run / "models" / "round-0001.safetensors"

    def link(source, target):
        if source == gone:
            gone.unlink(missing_ok=True)
        real(source, target)

    monkeypatch.setattr(backup, "_link", link)

    manifest = back_up(hub, tmp_path / "hub.tar")

    assert str(gone.relative_to(hub.path)) not in manifest.files


def test_a_run_that_never_rests_is_told(hub, tmp_path, monkeypatch):
    run = next(hub.runs.iterdir())
    real = backup._link

    def link(source, target):
        real(source, target)
        (run / "journal" / "pooled.json").unlink(missing_ok=True)
        (run / "journal" / "pooled.json").write_text("{}")

    monkeypatch.setattr(backup, "_link", link)
    monkeypatch.setattr(backup.time, "sleep", lambda _: None)

    with pytest.raises(RunError, match="pause the run"):
        back_up(hub, tmp_path / "hub.tar")


def test_where_links_are_not_allowed_files_are_copied(hub, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)

    manifest = back_up(hub, tmp_path / "hub.tar")

    assert any(name.startswith("runs/") for name in manifest.files)


def test_an_older_archive_stays_when_a_backup_fails(hub, archive, monkeypatch):
    before = archive.read_bytes()
    (hub.nginx / "bind.map").unlink()

    with pytest.raises(RunError, match="an older one was not touched"):
        back_up(hub, archive)

    assert archive.read_bytes() == before
    assert [p.name for p in archive.parent.iterdir() if p.name.endswith(".part")] == []
    assert [p.name for p in hub.path.iterdir() if p.name.startswith(".backup")] == []


# --- what must be refused ----------------------------------------------------------------


def refused(archive, tmp_path, match):
    target = tmp_path / "restored"
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RunError, match=match):
        restore(archive, target)
    assert sorted(tmp_path.iterdir()) == before  # nothing was written, not even aside


def rewritten(archive, change):
    """Write an archive anew with changed members, and with a manifest that fits."""
    with tarfile.open(archive) as old:
        held = [(m, old.extractfile(m).read()) for m in old.getmembers()]
    manifest = json.loads(held[0][1])
    members = change([(m.name, m.type, m.linkname, data) for m, data in held[2:]])
    manifest["files"] = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, _, _, data in members
    }
    text = json.dumps(manifest, indent=1, sort_keys=True).encode()
    digest = hashlib.sha256(text).hexdigest().encode()
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as new:
        for name, kind, link, data in [
            ("manifest.json", tarfile.REGTYPE, "", text),
            ("manifest.sha256", tarfile.REGTYPE, "", digest),
            *sorted(members),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, link, 0o600
            info.mtime, info.size = int(manifest["made"]), len(data)
            new.addfile(info, io.BytesIO(data))
    data = archive.read_bytes().rstrip(b"\0")
    archive.write_bytes(data + b"\0" * (-len(data) % 512) + backup.END)


def test_the_rewriting_of_these_tests_is_accepted_where_nothing_is_changed(archive, tmp_path):
    rewritten(archive, lambda members: members)

    restore(archive, tmp_path / "restored")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/x",
        "runs/../../x",
        "pki/./x",
        "runs//x",
        "x",
        "run/x",
        "pki/a\\b",
        "pki/\n",
    ],
)
def test_a_member_with_a_name_that_no_hub_has_is_refused(archive, tmp_path, name):
    rewritten(archive, lambda members: [*members, (name, tarfile.REGTYPE, "", b"x")])

    refused(archive, tmp_path, "is no file of a hub")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE],
    ids=["symbolic link", "hard link", "device", "fifo", "folder"],
)
def test_a_member_that_is_no_plain_file_is_refused(archive, tmp_path, kind):
    rewritten(archive, lambda members: [*members, ("runs/x", kind, "/etc/passwd", b"")])

    refused(archive, tmp_path, "a link, a device or a folder")


def test_every_flipped_bit_is_refused(archive, tmp_path):
    whole = archive.read_bytes()
    places = [0, 200, 700, len(whole) // 2, len(whole) // 3, len(whole) - 1, len(whole) - 1025]
    places += [whole.index(b"manifest.sha256") + 512, whole.index(b'"made"') + 9]

    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1
        archive.write_bytes(flipped)
        refused(archive, tmp_path, "hub.tar: ")


@pytest.mark.parametrize("cut", [1, 512, 1024, 5000, 100_000])
def test_a_short_or_long_archive_is_refused(archive, tmp_path, cut):
    whole = archive.read_bytes()

    archive.write_bytes(whole[:-cut])
    refused(archive, tmp_path, "nothing was written")
    archive.write_bytes(whole + b"\0" * cut)
    refused(archive, tmp_path, "does not end where it should")


def test_two_members_in_another_order_are_refused(archive, tmp_path):
    whole = archive.read_bytes()
    at = [i for i in range(0, len(whole), 512) if whole[i : i + 5] == b"nginx"]
    first, second = whole[at[0] : at[1]], whole[at[1] : at[1] + 512]
    archive.write_bytes(whole[: at[0]] + second + first + whole[at[1] + 512 :])

    refused(archive, tmp_path, "where nginx/")


def test_what_is_no_backup_is_refused(tmp_path):
    archive = tmp_path / "hub.tar"
    archive.write_bytes(b"PK\3\4" + b"\0" * 5000)

    refused(archive, tmp_path, "is no backup of a hub")


def test_an_archive_of_another_format_is_refused(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(backup, "FORMAT", 2)

    refused(archive, tmp_path, "another version of fedseg")


def test_an_archive_that_is_too_large_is_refused_before_it_is_read(
    archive, tmp_path, monkeypatch
):
    with pytest.raises(RunError, match="more than 10 bytes"):
        restore(archive, tmp_path / "restored", largest_bytes=10)
    monkeypatch.setattr(backup.shutil, "disk_usage", lambda _: os.terminal_size((0, 0)))
    monkeypatch.setattr(
        backup.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})()
    )
    refused(archive, tmp_path, "which are not free")


def test_a_manifest_that_claims_a_huge_size_takes_no_memory(archive, tmp_path):
    header = backup._header("manifest.json", backup.LARGEST_FILE, 0.0)
    archive.write_bytes(header + b"{")

    refused(archive, tmp_path, "is no backup")


def test_a_folder_that_holds_something_is_not_touched(archive, hub):
    before = files_of(hub.path)

    with pytest.raises(InputError, match="is not empty"):
        restore(archive, hub.path)

    assert files_of(hub.path) == before


def test_a_file_whose_name_no_archive_can_hold_is_told(hub, tmp_path):
    (next(hub.runs.iterdir()) / "ä.json").write_text("{}")

    with pytest.raises(RunError, match="nothing that a backup can hold"):
        back_up(hub, tmp_path / "hub.tar")


def test_the_manifest_tells_who_made_it_and_when(hub, tmp_path):
    manifest = asdict(back_up(hub, tmp_path / "hub.tar"))

    assert manifest["format"] == 1
    assert manifest["made"] > 1.7e9
    assert "registry.db" in manifest["files"]


# --- the commands ------------------------------------------------------------------------


def test_the_commands_write_and_restore(hub, tmp_path):
    app = typer.Typer()
    app.command()(hub_backup.backup)
    app.command()(hub_backup.restore)
    kept = tmp_path / "kept"
    kept.mkdir()

    CliRunner().invoke(app, ["backup", str(kept), "--folder", str(hub.path)])
    archive = next(kept.iterdir())
    done = CliRunner().invoke(app, ["restore", str(archive), "--folder", str(tmp_path / "new")])

    assert archive.name.startswith("hub-2")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "new" / "restored.json").exists()
