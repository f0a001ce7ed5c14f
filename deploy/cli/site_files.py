"""A simulation's sites are folders on this machine: what a hub never has, for the report."""

import base64
import csv
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.errors import RunError
from server.report.facts import CasePictures, CaseRow, SiteFiles
from server.run import read_run

SITES_FOLDER = "sites"


def collect_site_files(run: Path, pictures_per_site: int = 1) -> SiteFiles | None:
    """Read the tables of cases and a few pictures from a simulation's sites.

    Of the cases that a site has pictures of, those with the lowest mean federated Dice are
    taken.

    Args:
        run: The run's folder; its ``sites`` folder holds one folder a site and, within, one a
            run.
        pictures_per_site: Cases a site that are shown.

    Returns:
        What was found, or None where there is none: a hub's run, or one that has not got to
        its final figures.

    Raises:
        InputError: If the folder is no run.
        RunError: If a file is damaged.
    """
    cases: list[CaseRow] = []
    pictures: list[CasePictures] = []
    name = read_run(run).run
    for site in sorted((run / SITES_FOLDER).glob("*/")):
        folder = site / name
        if not (folder / "cases.csv").exists():
            continue
        try:
            rows = list(_read_cases(folder / "cases.csv", site.name))
            shown = _read_pictures(folder / "pictures", site.name)
            pictures += sorted(shown, key=lambda p: _mean_dice(rows, p))[:pictures_per_site]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{folder}: its cases or pictures cannot be read: {error}"
            ) from error
        cases += rows
    return SiteFiles(cases=tuple(cases), pictures=tuple(pictures)) if cases else None


def _read_cases(path: Path, site: str) -> Iterator[CaseRow]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield CaseRow(
                site=site,
                case=row["case"],
                modality=row["modality"],
                label=row["label"],
                model=row["model"],
                dice=float(row["dice"]),
                missed=row["missed"] == "True",
                spurious=row["spurious"] == "True",
            )


def _read_pictures(folder: Path, site: str) -> list[CasePictures]:
    if not (folder / "index.json").exists():
        return []
    found: dict[tuple[str, str], dict[str, str]] = {}
    for item in json.loads((folder / "index.json").read_text(encoding="utf-8")):
        data = (folder / Path(item["file"]).name).read_bytes()
        layers = found.setdefault((item["case"], item["modality"]), {})
        layers[item["layer"]] = base64.b64encode(data).decode("ascii")
    return [
        CasePictures(site=site, case=case, modality=modality, layers=layers)
        for (case, modality), layers in found.items()
    ]


def _mean_dice(rows: Iterable[CaseRow], shown: CasePictures) -> float:
    """Return a case's mean federated Dice; cases without any come last."""
    values = [
        r.dice
        for r in rows
        if (r.case, r.modality, r.model) == (shown.case, shown.modality, "federated")
        and not math.isnan(r.dice)
    ]
    return math.fsum(values) / len(values) if values else math.inf
