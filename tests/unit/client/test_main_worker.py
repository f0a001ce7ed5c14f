import pytest

from client import main_worker
from client.main_worker import main, trouble_of
from client.serving import owning


def test_a_profile_and_its_folders_are_looked_at(site, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    lost = tmp_path / "lost.yaml"
    lost.write_text("name: a\ndatasets: [{folder: 'Mustermann^Erika', modality: ct}]\n")

    found = [trouble_of(path) for path in (site, broken, tmp_path / "none.yaml", lost)]

    unreadable = "the site's profile cannot be read"
    assert found == ["", unreadable, unreadable, "a dataset's folder is not there"]


@pytest.fixture
def ended(capsys, monkeypatch):
    """Run the program in this process until it gives up; return its code and its words."""
    monkeypatch.setattr(main_worker.signal, "signal", lambda *_: None)
    monkeypatch.setattr(main_worker.os, "umask", lambda _: None)

    def run(profile, folder):
        socket = folder.parent / "w.sock"
        given = {"--profile": profile, "--folder": folder, "--socket": socket}
        with pytest.raises(SystemExit) as caught:
            main([str(part) for pair in given.items() for part in pair])
        return caught.value.code, capsys.readouterr().err

    return run


def test_a_wrong_profile_is_told_to_a_person(tmp_path, ended):
    (tmp_path / "site.yaml").write_text("name: 3\n")

    code, words = ended(tmp_path / "site.yaml", tmp_path / "folder")

    assert code == 2
    assert "datasets: is missing" in words


def test_a_folder_that_is_a_file_is_told(site, tmp_path, ended):
    (tmp_path / "folder").write_text("")

    code, words = ended(site, tmp_path / "folder")

    assert code == 4
    assert "cannot be used" in words


def test_a_second_worker_of_a_site_is_refused_though_it_has_another_socket(
    site, tmp_path, ended
):
    with owning(tmp_path / "worker.lock"):
        code, words = ended(site, tmp_path)

    assert code == 4
    assert "another worker runs here" in words
