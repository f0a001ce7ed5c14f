import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from common.errors import InputError, RunError, StorageError
from server.registry import ADMITTED, QUEUED, Registry, RunRow, SiteRow


@pytest.fixture
def registry(tmp_path):
    registry = Registry(tmp_path / "registry.db")
    registry.create()
    return registry


def test_a_row_is_added_then_changed_and_other_columns_stay(registry):
    registry.put(SiteRow, {"name": "A"}, state="invited", secret_hash="s")  # noqa: S106
    registry.put(SiteRow, {"name": "A"}, state=ADMITTED)

    assert (registry.site("A").state, registry.site("A").secret_hash) == (ADMITTED, "s")
    assert len(registry.rows(SiteRow)) == 1


def test_a_change_happens_only_where_the_row_is_as_expected(registry):
    registry.put(SiteRow, {"name": "A"}, state="invited")

    assert registry.change(SiteRow, {"name": "A", "state": "invited"}, state="waiting")
    assert not registry.change(SiteRow, {"name": "A", "state": "invited"}, state=ADMITTED)
    assert registry.site("A").state == "waiting"


def test_values_are_never_sql(registry):
    name = "A'; DROP TABLE site; --"
    registry.put(SiteRow, {"name": name}, state="invited")

    assert registry.site(name).name == name


def test_an_unknown_site_is_told_with_those_that_there_are(registry):
    registry.put(SiteRow, {"name": "A"}, state="invited")

    with pytest.raises(InputError, match="knows: A"):
        registry.site("B")


def test_a_run_is_found_by_the_start_of_its_name(registry):
    for name in ("2026-a", "2026-b"):
        registry.put(
            RunRow,
            {"run": name},
            hash="h",
            folder="f",
            state=QUEUED,
            wanted="running",
            created=1.0,
        )

    assert registry.run("2026-a").run == "2026-a"
    with pytest.raises(InputError, match="2 runs begin so"):
        registry.run("2026")


def test_making_it_again_keeps_what_is_there(registry):
    registry.put(SiteRow, {"name": "A"}, state="invited")
    registry.create()

    assert registry.site("A").state == "invited"


def test_a_file_that_is_no_register_is_told(tmp_path):
    (tmp_path / "registry.db").write_bytes(b"this is no database at all, and long enough" * 99)

    with pytest.raises(RunError, match="register failed"):
        Registry(tmp_path / "registry.db").rows(SiteRow)


WRITER = """
import sys
from pathlib import Path
from server.registry import Registry, SiteRow
registry = Registry(Path(sys.argv[1]))
for i in range(40):
    registry.put(SiteRow, {"name": f"{sys.argv[2]}-{i}"}, state="invited")
"""


def test_several_processes_write_at_once_and_nothing_is_lost(registry):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(registry.path), name])
        for name in "ABC"
    ]

    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(registry.rows(SiteRow)) == 120


def test_a_register_of_an_older_fedseg_is_brought_up_to_date_once(registry):
    registry.put(SiteRow, {"name": "A"}, state=ADMITTED)
    with closing(sqlite3.connect(registry.path)) as db, db:
        db.execute("ALTER TABLE site DROP COLUMN doubled")
        db.execute("PRAGMA user_version = 1")

    assert registry.site("A").doubled == 0
    registry.change(SiteRow, {"name": "A"}, doubled=7.0)
    registry.create()

    assert (registry.site("A").state, registry.site("A").doubled) == (ADMITTED, 7.0)


def test_a_register_on_a_full_disk_is_told_as_one_that_may_be_tried_again(
    registry, monkeypatch
):
    class Full:
        """A connection whose disk is full."""

        row_factory = None

        def execute(self, _):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    monkeypatch.setattr(sqlite3, "connect", lambda *_, **__: Full())
    with pytest.raises(StorageError, match="disk is full; free space in the hub's"):
        registry.rows(SiteRow)
