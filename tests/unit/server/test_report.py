import math
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from client.evaluation import CaseScore, write_case_scores
from client.pictures import COLOURS
from common.errors import RunError
from common.files import write_json
from common.messages import (
    Accounting,
    AloneReport,
    Difference,
    Enrolment,
    Evaluation,
    Score,
    UpdateReport,
)
from common.metrics import LabelScore
from common.parameters import Parameter, save_weights
from common.study.study import Federation, Label, Modality, Study, as_plain, study_hash
from common.tensors import digest_of
from deploy.cli.site_files import collect_site_files
from server.journal import ClosedRound, Journal
from server.recovery import recover
from server.report import charts, page
from server.report.facts import SiteFiles, read_facts
from server.report.page import render_report
from server.run import RunInfo, read_run, write_run
from server.selection import choose

RUN = "20260101-000000-abcdef"
STUDY = Study(
    name="a_study",
    labels=(Label(name="liver"), Label(name="spleen")),
    modalities={
        "ct": Modality(intensity="hounsfield", window=(-160.0, 240.0)),
        "mr": Modality(intensity="arbitrary"),
    },
    federation=Federation(rounds=2),
)
SITES = {"ct-1": "ct", "mr-1": "mr", "<script>alert(1)</script>": "mr"}
HOSTILE = "<script>alert(1)</script>"
METRICS = ("dice", "hd95_mm", "assd_mm", "volume_difference", "voe")


def scores(modality: str, dice: float, cases: int = 3) -> tuple[Score, ...]:
    values = {
        "dice": dice,
        "hd95_mm": 12.0,
        "assd_mm": 3.0,
        "volume_difference": -0.25,
        "voe": 0.4,
    }
    return tuple(
        Score(modality=modality, label=label, metric=metric, value=values[metric], cases=cases)
        for label in ("liver", "spleen")
        for metric in METRICS
    ) + tuple(
        Score(modality=modality, label=label, metric="missed", value=1.0, cases=cases)
        for label in ("liver", "spleen")
    )


def evaluation(site: str, change: float, alone: bool = True) -> Evaluation:
    modality = SITES[site]
    return Evaluation(
        site=site,
        round=2,
        federated=scores(modality, 0.6),
        alone=scores(modality, 0.6 - change) if alone else (),
        differences=tuple(
            Difference(
                modality=modality,
                label=label,
                mean=change,
                low=change - 0.01,
                high=change + 0.01,
                cases=8,
            )
            for label in ("liver", "spleen", "mean")
        )
        if alone
        else (),
        skipped={},
        seconds=1.0,
    )


def enrolment(site: str, declared: int = 10) -> Enrolment:
    account = Accounting(
        declared=declared,
        usable=8,
        skipped={"no <i>label</i>": 2},
        train=5,
        validation=1,
        test=2,
    )
    return Enrolment(
        site=site,
        study=study_hash(STUDY),
        accounting={SITES[site]: account},
        annotated=("liver",),
        totals={},
        version="0.1.0",
    )


def report(site: str, number: int, used: int = 4, loss: float = 1.5) -> UpdateReport:
    modality = SITES[site]
    return UpdateReport(
        site=site,
        run=RUN,
        study=study_hash(STUDY),
        round=number,
        cases={modality: 5},
        used={modality: used},
        skipped={modality: {"no <i>label</i>": 2}},
        steps=7,
        loss=loss,
        seconds={"train": 2.0, "validate": 0.5},
        scores=scores(modality, 0.5)[:1] if number > 1 else (),
        affinities={},
    )


def build(folder: Path) -> Journal:
    folder.mkdir()
    table = {
        "body": Parameter("body", (3, 4), "float32", "shared"),
        "norm": Parameter("norm", (2,), "float32", "modality:ct"),
        "out": Parameter("out", (5,), "float32", "head:liver"),
    }
    weights = {name: np.zeros(p.shape, p.dtype) for name, p in table.items()}
    save_weights(folder / "initial.safetensors", weights, table, {})
    info = RunInfo(
        run=RUN,
        study=as_plain(STUDY),
        hash=study_hash(STUDY),
        created="2026-01-01T00:00:00+00:00",
        versions={"fedseg": "0.1.0"},
        initial=digest_of(folder / "initial.safetensors"),
    )
    write_run(folder, info)
    return Journal(folder)


def enrol(journal: Journal, sites: Mapping[str, Enrolment], refused: Mapping[str, str]) -> None:
    plain = {site: asdict(e) for site, e in sites.items()}
    journal.write("enrolment", {"sites": plain, "refused": dict(refused)})


def close(
    journal: Journal,
    number: int,
    reports: list[UpdateReport],
    refused: Mapping[str, str] | None = None,
) -> None:
    weights = {"body": np.zeros((3, 4), np.float32)}
    accepted = []
    for item in reports:
        # the file is named after the site: a hostile name must not choose the place
        safe = replace(item, site=re.sub(r"\W", "", item.site))
        written = journal.accept(safe, weights, norm=0.5, traffic=(1000, 600), seconds=3.0)
        accepted.append(replace(written, report=item))
    save_weights(
        journal.model(number),
        weights,
        {"body": Parameter("body", (3, 4), "float32", "shared")},
        {},
    )
    closed = ClosedRound(
        number=number,
        accepted=tuple(accepted),
        refused=dict(refused or {}),
        digest=digest_of(journal.model(number)),
        seconds=10.0 * number,
        fold_seconds=1.0,
        gap_seconds=0.25,
    )
    journal.close(closed)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    build(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    journal = build(tmp_path / "run")
    enrol(journal, {s: enrolment(s) for s in SITES}, {"node 9": "read <b>another</b> study"})
    close(journal, 1, [report(s, 1) for s in SITES])
    close(
        journal, 2, [report(s, 2) for s in ("ct-1", "mr-1")], {HOSTILE: "holds <img src=x> NaN"}
    )
    last = {s: evaluation(s, 0.0) for s in SITES}
    journal.write("last", {s: asdict(e) for s, e in last.items()})
    choose(journal, journal.closed_rounds(), last)
    alone = {s: AloneReport(site=s, steps=14, best_round=1, seconds=4.0) for s in SITES}
    journal.write("alone", {s: asdict(a) for s, a in alone.items()})
    changes = {"ct-1": 0.02, "mr-1": -0.2, HOSTILE: 0.001}
    journal.write("final", {s: asdict(evaluation(s, c)) for s, c in changes.items()})
    return tmp_path / "run"


def label_score(dice: float, **flags: bool) -> LabelScore:
    known = {"missed": False, "absent": False, "spurious": False} | flags
    return LabelScore(
        dice=dice, hd95_mm=1.0, assd_mm=1.0, volume_difference=0.0, voe=1.0 - dice, **known
    )


def add_site_files(run: Path) -> None:
    folder = run / "sites" / "mr-1" / RUN
    (folder / "pictures").mkdir(parents=True)
    rows = [
        CaseScore(
            case=f"case {i}", modality="mr", label="liver", model=model, score=label_score(dice)
        )
        for i, dice in enumerate((0.9, 0.1, 0.7, 0.3, 0.5, 0.8))
        for model in ("federated", "alone")
    ]
    rows[2] = replace(rows[2], score=label_score(0.0, missed=True))
    write_case_scores(folder / "cases.csv", rows)
    index = []
    for case in ("case 0", "case 1"):
        for layer in ("image", "reference", "federated", "alone"):
            name = f"mr-{case}-{layer}.png"
            (folder / "pictures" / name).write_bytes(f"png {case} {layer}".encode())
            index.append({"case": case, "modality": "mr", "layer": layer, "file": name})
    write_json(folder / "pictures" / "index.json", index)


class Outline(HTMLParser):
    """What the tests ask of a page: tags with attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_everything_that_a_site_wrote_is_escaped(finished: Path):
    text = render_report(finished, None)

    outline = Outline(text)
    assert not outline.all("script")
    assert not outline.all("img")
    assert not outline.all("i")
    assert "<b>another</b>" not in text
    assert HOSTILE in outline.words
    assert "no <i>label</i>: 2" in outline.words


def test_the_worst_site_stands_first(finished: Path):
    facts = read_facts(finished)

    assert [c.site for c in facts.comparisons] == ["mr-1", HOSTILE, "ct-1"]
    verdicts = [c.mean.verdict for c in facts.comparisons]
    assert verdicts == ["worse", "no clear difference", "better"]
    words = Outline(render_report(finished, None)).words
    answer = words[words.index("Does federating help each site?") :]
    assert answer.index("mr-1") < answer.index("ct-1")
    assert "worse at 1 site, no clear difference at 1 site, better at 1 site." in answer


def test_an_interval_of_one_case_carries_no_verdict():
    row = read_row(cases=1, low=0.2, high=0.2)

    assert row.verdict == "no clear difference"
    assert row.is_thin


def test_an_interval_that_is_not_finite_is_not_compared():
    assert read_row(cases=5, low=math.nan, high=0.2).verdict == "not compared"


def read_row(cases: int, low: float, high: float) -> page.Comparison:
    difference = Difference(
        modality="ct", label="mean", mean=0.2, low=low, high=high, cases=cases
    )
    from server.report.comparison import Measures

    return page.Comparison(
        label="mean", federated=Measures(), alone=Measures(), difference=difference
    )


def test_a_refused_update_is_named_with_its_reason(finished: Path):
    words = Outline(render_report(finished, None)).words

    section = words[words.index("Refused updates", words.index("Gap before") - 2000) :]
    assert f"2 {HOSTILE} holds <img src=x> NaN" in section
    assert "node 9 : read <b>another</b> study" in words
    assert "1 update did not count." in words


def test_without_refusals_the_section_says_none(empty: Path):
    journal = Journal(empty)
    enrol(journal, {"ct-1": enrolment("ct-1")}, {})
    close(journal, 1, [report("ct-1", 1)])

    words = Outline(render_report(empty, None)).words

    assert "Refused updates None: every site that was asked" in words


def test_a_run_without_a_round_can_be_read(empty: Path):
    words = Outline(render_report(empty, None)).words

    assert "No site has enrolled yet; 2 rounds of unet are planned." in words
    assert "0 of 2 rounds are closed." in words
    assert "No round is closed yet." in words


def test_an_interrupted_run_says_what_is_missing(empty: Path):
    journal = Journal(empty)
    enrol(journal, {s: enrolment(s) for s in SITES}, {})
    close(journal, 1, [report(s, 1) for s in SITES])
    (empty / "initial.safetensors").unlink()

    words = Outline(render_report(empty, None)).words

    assert "3 sites (1 CT, 2 MR) train unet with fedavg: 1 of 2 rounds are closed." in words
    assert "This run is not finished" in words
    for what in (
        "validation after the last round",
        "training of models alone",
        "final evaluation",
    ):
        assert f"The {what}" in words
    assert "The initial weights are not in the run’s folder" in words


@pytest.mark.parametrize("name", ["last", "alone", "final"])
def test_any_one_missing_record_leaves_a_page(finished: Path, name: str):
    (finished / "journal" / f"{name}.json").unlink()

    words = Outline(render_report(finished, None)).words

    assert "has not happened yet." in words


def test_a_damaged_file_and_a_lost_round_are_told(finished: Path):
    journal = Journal(finished)
    record = journal.round_record(1)
    record.write_text(record.read_text().replace("0", "1", 1))

    recover(journal, read_run(finished))
    words = Outline(render_report(finished, None)).words

    assert "of this run were not what had been written" in words
    assert "journal/round-0001.json" in words
    assert "round 1 stays closed, since newer weights are whole" in words
    assert "What is known of round 1 was lost: its record was changed" in words
    assert "1 ✕ lost : its record was changed" in words


def test_a_site_without_final_figures_is_named(finished: Path):
    journal = Journal(finished)
    journal.write("final", {"ct-1": asdict(evaluation("ct-1", 0.0, alone=False))})

    words = Outline(render_report(finished, None)).words

    assert "mr-1 is missing from the final evaluation on held-out cases" in words
    assert "not compared at 1 site" in words


def test_a_number_that_does_not_exist_is_a_dash_with_its_reason(finished: Path):
    journal = Journal(finished)
    nan = scores("ct", math.nan, cases=0)
    one = replace(evaluation("ct-1", 0.0), federated=nan, alone=nan, differences=())
    journal.write("final", {"ct-1": asdict(one)})

    text = render_report(finished, None)

    assert "nan" not in Outline(text).words.lower().replace("holds <img src=x> nan", "")
    assert "– (no held-out case could be scored by this model)" in Outline(text).words


def test_a_loss_that_is_not_a_number_leaves_the_chart(empty: Path):
    journal = Journal(empty)
    enrol(journal, {"ct-1": enrolment("ct-1")}, {})
    close(journal, 1, [report("ct-1", 1, loss=math.nan)])

    figure = page.charts_of(read_facts(empty)).loss

    assert figure.rows == (("1", "–"),)
    assert "no value yet" in figure.svg


def test_nothing_is_loaded_from_anywhere(finished: Path):
    add_site_files(finished)
    text = render_report(finished, collect_site_files(finished))

    outline = Outline(text)
    places = [
        v
        for _, attributes in outline.tags
        for k, v in attributes.items()
        if k in {"src", "href"}
    ]
    assert places
    assert all(place and re.match(r"#|data:", place) for place in places)
    assert "@import" not in text
    assert not re.search(r"url\(", text)
    assert not re.search(r"https?://", text)
    assert not {"script", "iframe", "object"} & {tag for tag, _ in outline.tags}


def test_every_chart_has_words_and_a_table(finished: Path):
    text = render_report(finished, None)

    figures = re.findall(r'<figure class="chart".*?</figure>', text, re.DOTALL)
    assert len(figures) == text.count("<svg") > 5
    for figure in figures:
        assert 'role="img"' in figure
        assert re.search(r"<title[^>]*>[^<]+</title><desc[^>]*>[^<]+</desc>", figure)
        assert re.search(r"<details>.*<table>.*<tbody>\s*<tr>.*</details>", figure, re.DOTALL)


def test_identifiers_are_unique_and_links_lead_somewhere(finished: Path):
    add_site_files(finished)
    outline = Outline(render_report(finished, collect_site_files(finished)))

    ids = [a["id"] for _, a in outline.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {str(a["href"])[1:] for a in outline.all("a")} <= set(ids)
    used = [str(a.get("aria-labelledby", "")).split() for _, a in outline.tags]
    assert {i for held in used for i in held} <= set(ids)


def test_headings_do_not_skip_a_level(finished: Path):
    outline = Outline(render_report(finished, None))

    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_every_table_scrolls_in_a_box_that_the_keyboard_reaches(finished: Path):
    text = render_report(finished, None)

    boxes = [a for a in Outline(text).all("div") if a.get("class") == "scroll"]
    assert len(boxes) == text.count("<table")
    assert all(
        a["tabindex"] == "0" and a["aria-label"] and a["role"] == "region" for a in boxes
    )


def test_the_numbers_of_a_sound_run_add_up(finished: Path):
    facts = read_facts(finished)

    assert not any(account.odd for account in facts.accounts)
    assert "All numbers add up." in Outline(render_report(finished, None)).words
    hostile = next(a for a in facts.accounts if a.site == HOSTILE)
    assert hostile.used == {1: 4, 2: None}
    sent = sum(a.sent for c in facts.rounds for a in c.accepted)
    assert sum(w.sent for w in facts.work) == sent == 5000
    assert sum(w.accepted for w in facts.work) + len(facts.refusals) == 6


def test_numbers_that_do_not_add_up_are_marked(empty: Path):
    journal = Journal(empty)
    enrol(journal, {"ct-1": enrolment("ct-1", declared=11)}, {})
    close(journal, 1, [report("ct-1", 1, used=6)])

    account = read_facts(empty).accounts[0]
    words = Outline(render_report(empty, None)).words

    assert len(account.odd) == 3
    assert "⚠ The numbers of 1 line do not add up." in words
    assert "round 1: more cases were used than it has" in words


def test_parameters_are_counted_by_kind(finished: Path):
    kinds = read_facts(finished).kinds

    found = [(k.name, k.parameters, k.size_bytes) for k in kinds]
    assert found == [("shared", 12, 48), ("modality:ct", 2, 8), ("head:liver", 5, 20)]


def test_the_best_round_is_marked_in_the_curve_of_the_mean(finished: Path):
    svg = page.charts_of(read_facts(finished)).metric.svg

    assert "best: round 2" in svg


def test_validation_belongs_to_the_round_before_the_answer(finished: Path):
    points = read_facts(finished).validation["liver"]["ct-1"]

    assert points == ((1.0, 0.5), (2.0, 0.6))


def test_a_hub_has_no_cases_and_no_pictures(finished: Path):
    assert collect_site_files(finished) is None
    assert "Worst cases and pictures" not in render_report(finished, None)


def test_a_simulation_shows_the_five_worst_cases_and_the_worst_picture(finished: Path):
    add_site_files(finished)
    files = collect_site_files(finished)
    assert isinstance(files, SiteFiles)

    worst = page.worst_cases(files)
    text = render_report(finished, files)

    assert [w.case for w in worst] == ["case 1", "case 3", "case 4", "case 2", "case 5"]
    assert worst[0].finding == "did not find it"
    assert [p.case for p in files.pictures] == ["case 1"]
    images = Outline(text).all("img")
    assert len(images) == 4
    assert all(image["alt"] for image in images)


def test_a_damaged_table_of_cases_is_refused_with_its_place(finished: Path):
    add_site_files(finished)
    (finished / "sites" / "mr-1" / RUN / "cases.csv").write_text("case,dice\nx,y\n")

    with pytest.raises(RunError, match="mr-1"):
        collect_site_files(finished)


def test_the_legend_has_the_colours_that_the_pictures_are_drawn_with():
    drawn = tuple("#{:02x}{:02x}{:02x}".format(*map(int, colour)) for colour in COLOURS)

    assert drawn == page.OUTLINES


def test_the_run_is_not_changed(finished: Path):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}

    render_report(finished, None)

    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.0, 1.0), (-0.06, 0.21), (3.0, 3.0), (0.0, 123456.0), (1e-6, 2e-6)],
    ids=["unit", "around zero", "a point", "large", "small"],
)
def test_ticks_are_even_and_enclose_the_range(low: float, high: float):
    found = charts.ticks(low, high)

    steps = np.diff(found)
    assert found[0] <= low <= high <= found[-1]
    assert 2 <= len(found) <= 8
    assert np.allclose(steps, steps[0])


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0041, "4 ms"),
        (1.5, "1.50 s"),
        (59.0, "59 s"),
        (61, "1 min 01 s"),
        (3725, "1 h 02 min"),
        (math.nan, "–"),
    ],
    ids=["short", "seconds", "under a minute", "minutes", "hours", "none"],
)
def test_a_duration_has_the_unit_that_suits_it(seconds: float, words: str):
    assert page.duration(seconds) == words


def test_series_differ_without_colour():
    series = tuple(
        charts.Series(name=f"s{i}", points=((1.0, i), (2.0, i)), style=i) for i in range(12)
    )
    plot = charts.Plot(key="k", title="t", x_label="x", y_label="y", series=series)

    svg = charts.line_chart(plot).svg

    lines = re.findall(r'<polyline class="line [^"]*" stroke-dasharray="([^"]*)"', svg)
    marks = re.findall(r'<path class="marker [^"]*" [^>]*d="([^"]*)"', svg)[::2][: len(lines)]
    assert len(set(zip(lines, marks, strict=True))) == 12


def test_a_site_looks_the_same_in_every_chart(finished: Path):
    journal = Journal(finished)
    last = {s: evaluation(s, 0.0) for s in SITES}
    only_liver = tuple(s for s in last[HOSTILE].federated if s.label == "liver")
    last[HOSTILE] = replace(last[HOSTILE], federated=only_liver)
    journal.write("last", {s: asdict(e) for s, e in last.items()})

    drawn = page.charts_of(read_facts(finished))

    colours = [
        re.findall(r'class="marker (series-\d)"[^>]*/><text [^>]*>mr-1<', figure.svg)
        for figure in (*drawn.validation, drawn.loss)
    ]
    assert colours == [["series-3"]] * 3
