"""What the hub knows of its sites, studies and runs: one SQLite file, shared by its processes.

It holds no secret: invitations as hashes, keys as public keys. The control service writes what
sites say, the registrar what it did, the command line what the coordinator wants, the ServerApp
how its run stands; each change is one transaction.
"""

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, final

from common.errors import InputError, RunError, StorageError

PRIMARY = 0xFF  # of an extended code of SQLite
DISK_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY)
BUSY_SECONDS = 20.0
SEEN_SECONDS = 60.0  # since its last report, until a site is away

# states of a site
INVITED, WAITING, WANTED, ADMITTED, REVOKING, REVOKED = (
    "invited", "waiting", "wanted", "admitted", "revoking", "revoked",
)  # fmt: skip
# states of a run
QUEUED, RUNNING, PAUSED, STOPPED, FINISHED, FAILED = (
    "queued", "running", "paused", "stopped", "finished", "failed",
)  # fmt: skip
MATRIX_SUFFIX = ".matrix"  # of the name of a run that only scores another's models
APPROVE, DENY, PAUSE, WITHDRAW = "approve", "deny", "pause", "withdraw"
DECISIONS = (APPROVE, DENY, PAUSE, WITHDRAW)

SCHEMA = """
CREATE TABLE IF NOT EXISTS site (
  name TEXT PRIMARY KEY, state TEXT NOT NULL, secret_hash TEXT NOT NULL DEFAULT '',
  invited REAL NOT NULL DEFAULT 0, expires REAL NOT NULL DEFAULT 0,
  request_pem TEXT NOT NULL DEFAULT '', node_key TEXT NOT NULL DEFAULT '',
  audit_key TEXT NOT NULL DEFAULT '', code TEXT NOT NULL DEFAULT '',
  certificate_pem TEXT NOT NULL DEFAULT '', serial TEXT NOT NULL DEFAULT '',
  certificate_ends REAL NOT NULL DEFAULT 0, renewal_pem TEXT NOT NULL DEFAULT '',
  node_id TEXT NOT NULL DEFAULT '', version TEXT NOT NULL DEFAULT '',
  seen REAL NOT NULL DEFAULT 0, ready INTEGER NOT NULL DEFAULT 0,
  reason TEXT NOT NULL DEFAULT '', clock_offset REAL NOT NULL DEFAULT 0,
  doubled REAL NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS study (
  hash TEXT PRIMARY KEY, name TEXT NOT NULL, text TEXT NOT NULL, offered REAL NOT NULL,
  round_bytes INTEGER NOT NULL, note TEXT NOT NULL DEFAULT '', open INTEGER NOT NULL DEFAULT 1);
CREATE TABLE IF NOT EXISTS decision (
  site TEXT NOT NULL, hash TEXT NOT NULL, decision TEXT NOT NULL, decided REAL NOT NULL,
  PRIMARY KEY (site, hash));
CREATE TABLE IF NOT EXISTS progress (
  site TEXT NOT NULL, run TEXT NOT NULL, round INTEGER NOT NULL, phase TEXT NOT NULL,
  done INTEGER NOT NULL, total INTEGER NOT NULL, bytes_in INTEGER NOT NULL,
  bytes_out INTEGER NOT NULL, moved REAL NOT NULL, PRIMARY KEY (site, run));
CREATE TABLE IF NOT EXISTS run (
  run TEXT PRIMARY KEY, hash TEXT NOT NULL, folder TEXT NOT NULL, state TEXT NOT NULL,
  wanted TEXT NOT NULL, flower_run TEXT NOT NULL DEFAULT '', created REAL NOT NULL,
  sentence TEXT NOT NULL DEFAULT '', round INTEGER NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0);
PRAGMA user_version = 2;
"""
# what a register that an older fedseg made still needs, by the version that it then has
UPGRADES = {2: "ALTER TABLE site ADD COLUMN doubled REAL NOT NULL DEFAULT 0"}


@dataclass(frozen=True, kw_only=True)
class SiteRow:
    """One site.

    Attributes:
        name: The site's name.
        state: ``invited``; ``waiting`` for the coordinator; ``wanted`` by the coordinator, not
            yet given its certificate; ``admitted``; ``revoking``; ``revoked``.
        secret_hash: Of the invitation.
        invited: When, seconds since 1970, UTC.
        expires: End of the invitation.
        request_pem: The site's request for a certificate.
        node_key: Public key of its Flower node, OpenSSH form.
        audit_key: Public key that signs its audit log, hexadecimal.
        code: What both sides read to each other over the telephone.
        certificate_pem: Its certificate and the issuer's.
        serial: Of the certificate, hexadecimal.
        certificate_ends: When it expires.
        renewal_pem: A request for the next certificate, until it is answered.
        node_id: What Flower calls the node.
        version: Of its fedseg.
        seen: When it last reported.
        ready: Whether it can work.
        reason: Why not.
        clock_offset: Its clock minus the hub's, seconds.
        doubled: When two machines last reported as this site; 0 if never.
    """

    name: str
    state: str
    secret_hash: str
    invited: float
    expires: float
    request_pem: str
    node_key: str
    audit_key: str
    code: str
    certificate_pem: str
    serial: str
    certificate_ends: float
    renewal_pem: str
    node_id: str
    version: str
    seen: float
    ready: int
    reason: str
    clock_offset: float
    doubled: float


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """One study on offer: hash, canonical JSON, bytes of a round's weights one way."""

    hash: str
    name: str
    text: str
    offered: float
    round_bytes: int
    note: str
    open: int


@dataclass(frozen=True, kw_only=True)
class DecisionRow:
    """What a site's people decided about a study."""

    site: str
    hash: str
    decision: str
    decided: float


@dataclass(frozen=True, kw_only=True)
class ProgressRow:
    """How far a site is in a run; ``moved`` is the hub's time of the last change."""

    site: str
    run: str
    round: int
    phase: str
    done: int
    total: int
    bytes_in: int
    bytes_out: int
    moved: float


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run.

    Attributes:
        run: Identifier.
        hash: Of what was approved: its study, or the search of which it is a trial.
        folder: Its folder.
        state: ``queued``, ``running``, ``paused``, ``stopped``, ``finished``, ``failed``.
        wanted: The coordinator's wish: ``running``, ``paused`` or ``stopped``.
        flower_run: Flower's name of the attempt under way.
        created: When it was queued.
        sentence: What it waits for, or why it ended.
        round: Last closed.
        attempts: How often a ServerApp was started for it.
    """

    run: str
    hash: str
    folder: str
    state: str
    wanted: str
    flower_run: str
    created: float
    sentence: str
    round: int
    attempts: int


Row = TypeVar("Row", SiteRow, StudyRow, DecisionRow, ProgressRow, RunRow)
_TABLES: Mapping[type, str] = {
    SiteRow: "site", StudyRow: "study", DecisionRow: "decision",
    ProgressRow: "progress", RunRow: "run",
}  # fmt: skip


@final
class Registry:
    """The hub's register; every call opens the file, so it may be shared by processes.

    Args:
        path: The SQLite file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        """Make the tables where they are missing."""
        with self._open() as db:
            db.executescript(SCHEMA)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level="IMMEDIATE")
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            try:
                _upgrade(db)
                with db:
                    yield db
            finally:
                db.close()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & PRIMARY in DISK_CODES:
                raise StorageError(
                    f"the hub's register cannot be used: {error}; free space in the hub's "
                    "folder or make it writable again"
                ) from error
            raise RunError(f"{self.path}: the hub's register failed: {error}") from error

    def rows(self, kind: type[Row], **where: Any) -> list[Row]:
        """Return all rows of one kind whose columns have these values, oldest first."""
        names = [f.name for f in fields(kind)]
        test = " AND ".join(f"{column} = ?" for column in where)
        query = f"SELECT {', '.join(names)} FROM {_TABLES[kind]}"  # noqa: S608 - our own names
        with self._open() as db:
            found = db.execute(
                query + (f" WHERE {test}" if test else "") + " ORDER BY rowid",
                tuple(where.values()),
            )
            return [kind(**{name: row[name] for name in names}) for row in found]

    def row(self, kind: type[Row], **where: Any) -> Row | None:
        """Return the one row with these values, or None."""
        return next(iter(self.rows(kind, **where)), None)

    def put(self, kind: type[Row], key: Mapping[str, Any], **columns: Any) -> None:
        """Change the row with this key, or add it; columns that are not named stay."""
        everything = {**key, **columns}
        marks = ", ".join("?" for _ in everything)
        update = ", ".join(f"{column} = excluded.{column}" for column in columns or key)
        query = (
            f"INSERT INTO {_TABLES[kind]} ({', '.join(everything)}) VALUES ({marks}) "  # noqa: S608
            f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {update}"
        )
        with self._open() as db:
            db.execute(query, tuple(everything.values()))

    def change(self, kind: type[Row], where: Mapping[str, Any], **columns: Any) -> bool:
        """Change rows that have these values; return whether there was any."""
        sets = ", ".join(f"{column} = ?" for column in columns)
        test = " AND ".join(f"{column} = ?" for column in where)
        query = f"UPDATE {_TABLES[kind]} SET {sets} WHERE {test}"  # noqa: S608
        with self._open() as db:
            done = db.execute(query, (*columns.values(), *where.values()))
            return done.rowcount > 0

    # --- questions that several processes ask -------------------------------------------------

    def site(self, name: str) -> SiteRow:
        """Return a site.

        Raises:
            InputError: If there is none of this name, with those that there are.
        """
        row = self.row(SiteRow, name=name)
        if row is None:
            known = ", ".join(s.name for s in self.rows(SiteRow)) or "none"
            raise InputError(f"site {name}: the hub knows no such site; it knows: {known}")
        return row

    def run(self, name: str) -> RunRow:
        """Return a run, named by its identifier or the start of it.

        Raises:
            InputError: If there is none, or more than one.
        """
        found = [r for r in self.rows(RunRow) if r.run.startswith(name)]
        found = [r for r in found if r.run == name] or found
        if len(found) != 1:
            known = ", ".join(r.run for r in self.rows(RunRow)) or "none"
            raise InputError(f"run {name}: {len(found)} runs begin so; the hub has: {known}")
        return found[0]

    def approved(self, hash_: str) -> list[SiteRow]:
        """Return the admitted sites whose people approved a study, in the order of names."""
        yes = {d.site for d in self.rows(DecisionRow, hash=hash_, decision=APPROVE)}
        sites = self.rows(SiteRow, state=ADMITTED)
        return sorted((s for s in sites if s.name in yes), key=lambda s: s.name)

    def there(self, hash_: str) -> list[SiteRow]:
        """Return those of them that are ready and reported within a minute."""
        moment = now()
        return [s for s in self.approved(hash_) if s.ready and moment - s.seen < SEEN_SECONDS]

    def note_progress(self, rows: Sequence[ProgressRow]) -> None:
        """Write down how far sites are; the time changes only when something moved."""
        for row in rows:
            held = self.row(ProgressRow, site=row.site, run=row.run)
            told = (row.round, row.phase, row.done, row.total, row.bytes_in, row.bytes_out)
            if held is not None and told == (
                held.round, held.phase, held.done, held.total, held.bytes_in, held.bytes_out
            ):  # fmt: skip
                continue
            self.put(
                ProgressRow, {"site": row.site, "run": row.run}, round=row.round,
                phase=row.phase, done=row.done, total=row.total, bytes_in=row.bytes_in,
                bytes_out=row.bytes_out, moved=row.moved,
            )  # fmt: skip


def _upgrade(db: sqlite3.Connection) -> None:
    """Bring a register that an older fedseg made up to date; an empty one is left to create."""
    if not 0 < _version(db) < max(UPGRADES):
        return
    with db:
        db.execute("BEGIN IMMEDIATE")
        held = _version(db)  # another process may have been faster
        for version, change in UPGRADES.items():
            if version > held:
                db.execute(change)
                db.execute(f"PRAGMA user_version = {version}")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def now() -> float:
    """Seconds since 1970, UTC."""
    return time.time()
