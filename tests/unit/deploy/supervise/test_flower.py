"""Flower's commands, asked through a configuration that Flower itself may spoil."""

import tomllib

import pytest

from common.errors import RunError
from deploy.supervise import flower
from deploy.supervise.flower import CONFIGURATION, Flower


@pytest.mark.parametrize(
    "spoiled", ["", "[superlink", '[superlink]\ndefault = "local"\n', None], ids=str
)
def test_a_configuration_that_a_full_disk_spoiled_is_written_again(
    tmp_path, monkeypatch, spoiled
):
    asked = Flower(tmp_path / "home", "127.0.0.1:9093", tmp_path / "root.crt")
    file = tmp_path / "home" / CONFIGURATION
    before = file.read_text()
    if spoiled is None:
        file.unlink()
    else:
        file.write_text(spoiled)
    tool = tmp_path / "flwr"
    tool.write_text("#!/bin/sh\ncat config.toml >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setattr(flower, "tool", lambda _: str(tool))

    with pytest.raises(RunError, match="flwr ls hub"):
        asked.runs()

    assert file.read_text() == before
    assert tomllib.loads(before)["superlink"]["hub"]["address"] == "127.0.0.1:9093"


def test_a_configuration_that_flower_wrote_in_its_own_way_is_left(tmp_path, monkeypatch):
    asked = Flower(tmp_path / "home", "127.0.0.1:9093", tmp_path / "root.crt")
    file = tmp_path / "home" / CONFIGURATION
    text = "# by Flower\n" + file.read_text()
    file.write_text(text)
    tool = tmp_path / "flwr"
    tool.write_text('#!/bin/sh\necho \'{"success": true, "runs": []}\'\n')
    tool.chmod(0o755)
    monkeypatch.setattr(flower, "tool", lambda _: str(tool))

    assert asked.runs() == {}
    assert file.read_text() == text
