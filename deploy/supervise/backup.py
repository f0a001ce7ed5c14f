"""A hub in one file: registers, authorities, secrets and runs, with a SHA-256 of each file.

::

    manifest.json    version, time, size and SHA-256 of every file
    manifest.sha256  its own
    hub.json  registry.db  pki/  secrets/  nginx/{nginx.conf,bind.map}  audit/
    flower/state.db  what Flower knows of the sites' nodes: without it they are strangers to it
    runs/RUN/        each run's folder, but for its logs and curves

The archive is a plain tar of regular files, and it holds every key of the hub: whoever has it
is the hub. The hub may work meanwhile: databases are copied by SQLite itself, and a run's
files, being whole or not there, are hard-linked aside in an instant.

The manifest settles every byte of the archive but the files' own, headers included, and their
digests settle those; so an archive is either exactly what was written or refused.
"""

import hashlib
import json
import os
import re
import shutil
import sqlite3
import stat
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO

from common.errors import RunError
from common.files import sync_folder, write_json, write_text
from common.study.typed import as_typed
from common.tensors import digest_of
from deploy.provision.nginx import CONFIGURATION, NginxSettings, render
from deploy.provision.private_files import new_private_folder
from deploy.supervise.hub_folder import HubFolder
from server.registry import Registry, RunRow

FORMAT = 1
MANIFEST, MANIFEST_DIGEST = "manifest.json", "manifest.sha256"
RESTORED = "restored.json"
DATABASES = ("registry.db", "flower/state.db")
FOLDERS = ("pki", "secrets", "audit")
FILES = ("hub.json", "nginx/nginx.conf", "nginx/bind.map")
LEFT_OUT = ("hub.jsonl", "tensorboard", ".lock")  # of a run
LARGEST_FILE = 8 * 2**30 - 1
LARGEST_MANIFEST = 64 * 2**20
LARGEST_ARCHIVE = 2**40
TRIES = 20
PIECE = 1 << 20
PLAIN = re.compile(r"[A-Za-z0-9._@+=~-]{1,128}")
END = b"\0" * (2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of an archive: its size in bytes and its SHA-256, hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an archive says of itself.

    Attributes:
        format: Of the archive.
        fedseg: Version that made it.
        made: Seconds since 1970, UTC.
        files: By name, relative to the hub's folder.
    """

    format: int
    fedseg: str
    made: float
    files: dict[str, Member]


def back_up(hub: HubFolder, target: Path) -> Manifest:
    """Write a hub into one archive; the hub may go on meanwhile.

    Args:
        hub: The hub.
        target: The archive; of mode 0600, there whole or not at all. One that exists is
            replaced.

    Raises:
        RunError: If something cannot be read, or the disk is full.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".backup.", dir=hub.path) as held:
            copied = Path(held)
            _gather(hub, copied)
            manifest = _manifest_of(copied)
            _write_tar(copied, manifest, target)
    except (OSError, sqlite3.Error) as error:
        what = f"the backup was not made: {error}; an older one was not touched"
        raise RunError(f"{target}: {what}") from error
    return manifest


def _gather(hub: HubFolder, copied: Path) -> None:
    """Bring everything together: the registers first, so that no run is older than they say."""
    for name in DATABASES:
        if (hub.path / name).exists():
            _copy_database(hub.path / name, copied / name)
    for name in FILES:
        _copy_file(hub.path / name, copied / name)
    for name in FOLDERS:
        for path in _files_below(hub.path / name):
            _copy_file(path, copied / path.relative_to(hub.path))
    for run in sorted(hub.runs.iterdir()):
        if run.is_dir():
            _link_run(run, copied / "runs" / run.name)


def _copy_database(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    live = sqlite3.connect(f"file:{source}?mode=rw", uri=True)
    with closing(live), closing(sqlite3.connect(target)) as copy:
        live.backup(copy)
        # one file by itself: no log beside it that would have to be in the archive too
        copy.execute("PRAGMA journal_mode = DELETE")


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target, follow_symlinks=False)


def _files_below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*"), reverse=True):  # an audit log after its head
        if path.is_file() and not path.is_symlink() and path.name != ".lock":
            yield path


def _link_run(run: Path, copied: Path) -> None:
    """Link a run's files aside, again until nothing changed in between.

    A file of a run is never changed in place, so the links keep what they had. A round that
    closes in between would leave half of it here and half of it there.
    """
    for _ in range(TRIES):
        before = _state_of(run)
        shutil.rmtree(copied, ignore_errors=True)
        copied.mkdir(parents=True)
        try:
            for name in before:
                _link(run / name, copied / name)
        except FileNotFoundError:  # let go of while we looked
            continue
        if _state_of(run) == before:
            return
        time.sleep(0.1)
    raise RunError(f"{run}: changes too fast to be backed up; pause the run, or try again")


def _state_of(run: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run)
        if name.parts[0] in LEFT_OUT or name.name.endswith(".part") or path.is_symlink():
            continue
        with suppress(FileNotFoundError):
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                found[str(name)] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except PermissionError:  # a file system without links, or another user's file
        shutil.copyfile(source, target)


def _manifest_of(copied: Path) -> Manifest:
    files = {}
    for path in sorted(copied.rglob("*")):
        if not path.is_file():
            continue
        name, size = str(path.relative_to(copied)), path.stat().st_size
        if not _is_ours(name) or size > LARGEST_FILE:
            raise RunError(f"{name!r}: its name or its size is nothing that a backup can hold")
        files[name] = Member(size=size, sha256=digest_of(path))
    ordered = {name: files[name] for name in sorted(files)}  # as JSON will have it
    return Manifest(format=FORMAT, fedseg=version("fedseg"), made=time.time(), files=ordered)


def _write_tar(copied: Path, manifest: Manifest, target: Path) -> None:
    # mkstemp creates with 0600 at once: at no time can others read the keys in it
    handle, name = tempfile.mkstemp(
        prefix=f".{target.name}.", suffix=".part", dir=target.parent
    )
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as out:
            text = json.dumps(asdict(manifest), indent=1, sort_keys=True).encode()
            digest = hashlib.sha256(text).hexdigest().encode()
            for member, content in ((MANIFEST, text), (MANIFEST_DIGEST, digest)):
                out.write(_header(member, len(content), manifest.made))
                out.write(content + _padding(len(content)))
            for member, facts in manifest.files.items():
                out.write(_header(member, facts.size, manifest.made))
                with (copied / member).open("rb") as file:
                    shutil.copyfileobj(file, out, PIECE)
                out.write(_padding(facts.size))
            out.write(END)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(target)
        sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _header(name: str, size: int, made: float) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, int(made), 0o600
    try:
        return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    except ValueError as error:  # UnicodeError is one
        raise RunError(f"{name!r}: cannot be named in an archive: {error}") from error


def _padding(size: int) -> bytes:
    return b"\0" * (-size % tarfile.BLOCKSIZE)


# --- restoring -------------------------------------------------------------------------------


def restore(
    archive: Path,
    folder: Path,
    *,
    largest_bytes: int = LARGEST_ARCHIVE,
    clock: Callable[[], float] = time.time,
) -> HubFolder:
    """Make a hub's folder from an archive.

    Every name and every digest is checked before anything is written. The hub's sites may have
    seen newer rounds than the archive has: ``restored.json`` tells of it.

    Args:
        archive: From :func:`back_up`.
        folder: Appears whole or not at all; must not exist, or be empty.
        largest_bytes: Archives that unpack to more are refused.
        clock: The time, seconds since 1970, UTC.

    Raises:
        InputError: If ``folder`` holds something, or nginx cannot work there.
        RunError: If the archive is not exactly one that was written, or the disk is full.
    """
    folder = folder.absolute()
    try:
        with archive.open("rb") as file:
            manifest = _read_manifest(file, archive)
            begin = file.tell()
            _check_size(manifest, archive, folder, largest_bytes)
            _read_files(file, archive, manifest, None)
            with new_private_folder(folder) as part:
                file.seek(begin)
                _read_files(file, archive, manifest, part)
                _settle(part, folder, manifest, clock())
    except OSError as error:
        raise RunError(f"{archive}: not restored: {error}") from error
    return HubFolder.open(folder)


def _read_manifest(file: IO[bytes], archive: Path) -> Manifest:
    """Read manifest and its digest, both held against what would have been written."""
    begin = file.read(tarfile.BLOCKSIZE)
    found = _told_by(begin)
    if found is None or found.name != MANIFEST or found.size > LARGEST_MANIFEST:
        raise RunError(f"{archive}: is no backup of a hub")
    text = file.read(found.size)
    try:
        manifest, problems = as_typed(Manifest, json.loads(text))
    except ValueError as error:
        raise _damaged(archive, f"its manifest cannot be read: {error}") from error
    if manifest is None or manifest.format != FORMAT:
        what = problems[0][1] if problems else "it is of another version of fedseg"
        raise _damaged(archive, f"its manifest cannot be read: {what}")
    digest = hashlib.sha256(text).hexdigest().encode()
    made = manifest.made
    rest = _padding(len(text)) + _header(MANIFEST_DIGEST, len(digest), made) + digest
    rest += _padding(len(digest))
    if begin != _header(MANIFEST, len(text), made) or file.read(len(rest)) != rest:
        raise _damaged(archive, "its manifest was changed")
    if stranger := next((name for name in manifest.files if not _is_ours(name)), ""):
        raise _damaged(archive, f"{stranger[:80]!r} is no file of a hub")
    return manifest


def _is_ours(name: str) -> bool:
    """Whether a name is one that :func:`back_up` gives: relative, plain, in a known place."""
    parts = name.split("/")
    plain = all(PLAIN.fullmatch(part) and part not in (".", "..") for part in parts)
    known = name in (*FILES, *DATABASES) or (len(parts) > 1 and parts[0] in (*FOLDERS, "runs"))
    return plain and known


def _check_size(manifest: Manifest, archive: Path, folder: Path, largest: int) -> None:
    """Hold the size against what was asked for, what the file has, and what is free."""
    sizes = [member.size for member in manifest.files.values()]
    if any(not 0 <= size <= LARGEST_FILE for size in sizes) or sum(sizes) > largest:
        raise RunError(f"{archive}: unpacks to more than {largest:,} bytes; refused")
    parent = next(path for path in folder.parents if path.exists())
    if sum(sizes) > shutil.disk_usage(parent).free:
        raise RunError(f"{archive}: unpacks to {sum(sizes):,} bytes, which are not free")


def _read_files(
    file: IO[bytes], archive: Path, manifest: Manifest, target: Path | None
) -> None:
    """Check every file of an archive and, where there is a target, write it there."""
    for name, member in manifest.files.items():
        header = file.read(tarfile.BLOCKSIZE)
        if header != _header(name, member.size, manifest.made):
            raise _damaged(archive, _what_is_wrong(header, name))
        if target is None:
            digest = _copy(file, None, member.size)
        else:
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as out:  # below a folder of mode 0700
                digest = _copy(file, out, member.size)
                out.flush()
                os.fsync(out.fileno())
        padding = _padding(member.size)
        if digest != member.sha256 or file.read(len(padding)) != padding:
            raise _damaged(archive, f"{name}: is not what was backed up")
    if file.read(len(END) + 1) != END:
        raise _damaged(archive, "it does not end where it should")


def _copy(file: IO[bytes], out: IO[bytes] | None, size: int) -> str:
    digest = hashlib.sha256()
    while size and (piece := file.read(min(size, PIECE))):
        size -= len(piece)
        digest.update(piece)
        if out is not None:
            out.write(piece)
    return digest.hexdigest()


def _told_by(header: bytes) -> tarfile.TarInfo | None:
    with suppress(tarfile.TarError, ValueError):
        return tarfile.TarInfo.frombuf(header, "ascii", "strict")
    return None


def _what_is_wrong(header: bytes, expected: str) -> str:
    found = _told_by(header)
    if found is None:
        return f"where {expected} should begin there is something else"
    kind = "" if found.isreg() else ", a link, a device or a folder"
    return f"it holds {found.name[:80]!r}{kind} where {expected} should be"


def _damaged(archive: Path, what: str) -> RunError:
    return RunError(f"{archive}: {what}; nothing was written; take another backup")


def _settle(part: Path, folder: Path, manifest: Manifest, now: float) -> None:
    """Make everything name the new place, and say that it was restored."""
    for name in ("nginx/logs", "nginx/temp", "flower", "run", "runs", "log", "audit"):
        (part / name).mkdir(parents=True, exist_ok=True)
    registry = Registry(part / "registry.db")
    for row in registry.rows(RunRow):
        moved = folder / "runs" / Path(row.folder).name
        registry.change(RunRow, {"run": row.run}, folder=str(moved))
    hub = HubFolder(folder, HubFolder.open(part).settings)
    write_text(part / "nginx" / CONFIGURATION, render(nginx_settings(hub)))
    told = {"restored": now, "backup_made": manifest.made, "backup_fedseg": manifest.fedseg}
    write_json(part / RESTORED, told)
    for path in part.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)


def nginx_settings(hub: HubFolder) -> NginxSettings:
    """Return what the proxy of a hub at this place is configured with."""
    settings = hub.settings
    return NginxSettings(
        folder=hub.nginx, pki=hub.pki, host=settings.listen, port=settings.port,
        superlink_port=settings.superlink_port, control_socket=hub.control_socket,
        user=settings.user or ("root" if os.geteuid() == 0 else None),
    )  # fmt: skip
