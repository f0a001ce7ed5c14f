"""The example of docs/adding-a-network.md still fits the files that it changes."""

import ast
import re

import pytest

from tests.support.studies import ROOT

PAGE = (ROOT / "docs" / "adding-a-network.md").read_text()
DIFF = PAGE.split("```diff\n")[1].split("```")[0]
FILES = {
    part.splitlines()[0].strip(): re.split(r"^@@.*\n", part, flags=re.MULTILINE)[1:]
    for part in re.split(r"^\+\+\+ ", DIFF, flags=re.MULTILINE)[1:]
}


def sides(hunk):
    """Return what stands before and what after a hunk, as text."""
    lines = hunk.splitlines()
    before, after = ([x[1:] for x in lines if not x.startswith(mark)] for mark in "+-")
    return "\n".join(before), "\n".join(after)


@pytest.mark.parametrize("name", FILES)
def test_the_example_fits_the_file_that_it_changes(name):
    text = (ROOT / name).read_text()

    for before, after in map(sides, FILES[name]):
        assert text.count(before) == 1, before
        text = text.replace(before, after)

    ast.parse(text)


def test_the_example_has_every_step_that_the_page_lists():
    steps = PAGE.partition("What the rest relies on")[0]
    named = re.findall(r"`((?:common|tests)/[\w/]+\.py)`", steps)

    listed = {name for name in named if name != "common/study/composable.py"}
    assert set(FILES) == listed - {"common/networks/rows.py"}


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([\w/]+\.py)`", PAGE))))
def test_every_file_that_the_page_names_is_there(path):
    assert (ROOT / path).is_file()
