import pytest

from common.errors import DamagedError, InputError, RunError
from common.sealed import write_sealed
from common.study.study import as_plain
from server.run import read_run, run_of, write_run
from tests.support.journals import run_info
from tests.support.studies import small_study


def test_a_run_comes_back_with_its_study(tmp_path):
    write_run(tmp_path, run_info())

    assert read_run(tmp_path) == run_info()
    assert read_run(tmp_path).typed_study == small_study()


def test_a_study_changed_after_the_run_began_is_refused(tmp_path):
    changed = as_plain(small_study(seed=2))
    write_run(tmp_path, run_info(study=changed))

    with pytest.raises(RunError, match="the study was changed after the run began"):
        read_run(tmp_path)


def test_a_folder_that_is_no_run_and_a_damaged_one_are_told_apart(tmp_path):
    with pytest.raises(InputError, match=r"is not a run; it has no readable run\.json"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(DamagedError, match="is half written"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text('{"run": 1}')
    with pytest.raises(DamagedError, match=r"run\.json: carries no checksum"):
        read_run(tmp_path)


def test_a_run_of_another_release_is_told(tmp_path):
    write_sealed(tmp_path / "run.json", {"run": "r"}, file="run.json", run="r")

    with pytest.raises(RunError, match="go on with the release that wrote it"):
        read_run(tmp_path)


def test_a_folder_without_a_run_is_of_no_run(tmp_path):
    assert run_of(tmp_path) == ""
    write_run(tmp_path, run_info())
    assert run_of(tmp_path) == "run-1"
