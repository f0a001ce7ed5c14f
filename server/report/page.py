"""The report as one HTML file: no network, no script, light and dark, on paper too."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from server.report.charts import (
    Figure,
    Interval,
    Plot,
    Series,
    interval_chart,
    line_chart,
    number,
    span_of,
)
from server.report.comparison import FEWEST_CASES, Comparison
from server.report.facts import (
    CaseRow,
    Facts,
    Points,
    SiteFiles,
    read_facts,
)

TEMPLATES = Path(__file__).parent / "templates"
WORST_CASES = 5
LAYERS = ("image", "reference", "federated", "alone")
VERDICTS = ("worse", "no clear difference", "better", "not compared")
MEGA, KILO = 1_000_000, 1_000

# The outlines' colours by label order, as client.pictures draws them; a test compares the two.
OUTLINES = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")


@dataclass(frozen=True, kw_only=True)
class WorstCase:
    """One label of one held-out case: the federated model's lowest Dice come first."""

    site: str
    case: str
    modality: str
    label: str
    federated: float
    alone: float
    finding: str


@dataclass(frozen=True, kw_only=True)
class Charts:
    """All charts of the page, by section."""

    means: tuple[Figure, ...]
    labels: tuple[Figure, ...]
    metric: Figure
    validation: tuple[Figure, ...]
    loss: Figure
    rounds: tuple[Figure, ...]


def render_report(run: Path, site_files: SiteFiles | None) -> str:
    """Return the report of a run as one HTML page.

    Args:
        run: The run's folder, in any state; not changed.
        site_files: What a simulation's sites keep for themselves; None at a hub.

    Raises:
        InputError: If the folder is no run.
        RunError: If one of its records is damaged.
    """
    facts = read_facts(run)
    template = _environment().get_template("report.html.j2")
    page = template.render(
        f=facts,
        charts=charts_of(facts),
        summary=summary_of(facts),
        verdicts=verdicts_of(facts),
        worst=worst_cases(site_files) if site_files else (),
        pictures=site_files.pictures if site_files else (),
        has_site_files=site_files is not None,
        outlines=list(zip(facts.study.label_names, _outlines(), strict=False)),
        layers=LAYERS,
        fewest_cases=FEWEST_CASES,
        study_json=json.dumps(facts.info.study, indent=2, sort_keys=True, ensure_ascii=False),
    )
    return page.lstrip()


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["nan"] = math.nan
    environment.filters |= {
        "num": shown,
        "signed": lambda value, digits=3: number(value, digits, sign=True),
        "percent": percent,
        "duration": duration,
        "size": size,
        "modality": modality_name,
        "plural": plural,
    }
    return environment


def _outlines() -> Iterator[str]:
    while True:
        yield from OUTLINES


# --- words -------------------------------------------------------------------------------


def summary_of(facts: Facts) -> str:
    """Say in one sentence who trained what, and how far it got."""
    network, planned = facts.study.network.name, facts.study.federation.rounds
    closed, sites = len(facts.rounds), facts.enrolled.sites
    if not sites:
        return f"No site has enrolled yet; {plural(planned, 'round')} of {network} are planned."
    counts = {
        name: sum(1 for e in sites.values() if name in e.accounting)
        for name in facts.study.modalities
    }
    who = ", ".join(f"{n} {modality_name(name)}" for name, n in counts.items() if n)
    several = "; some have several" if sum(counts.values()) > len(sites) else ""
    begin = f"{plural(len(sites), 'site')} ({who}{several})"
    method = facts.study.federation.method.name
    if closed < planned:
        return (
            f"{begin} train {network} with {method}: {closed} of {planned} rounds are closed."
        )
    accepted = sum(len(c.accepted) for c in facts.rounds)
    asked = accepted + len(facts.refusals)
    return (
        f"{begin} trained {network} with {method} for {plural(closed, 'round')}; "
        f"{accepted} of {plural(asked, 'update')} were accepted."
    )


def verdicts_of(facts: Facts) -> dict[str, int]:
    """Count the sites by verdict; verdicts that nobody has are left out."""
    found = [c.mean.verdict for c in facts.comparisons]
    return {verdict: found.count(verdict) for verdict in VERDICTS if verdict in found}


def modality_name(name: str) -> str:
    """Write a modality as people do: CT, MR; longer names as they are."""
    return name.upper() if len(name) <= 3 else name  # noqa: PLR2004


def plural(count: int, word: str) -> str:
    """Write a count with its word."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def shown(value: float, digits: int = 3, why: str = "there is no value") -> str:
    """Write a number; where there is none, a dash that carries its reason."""
    return number(value, digits) if math.isfinite(value) else _dash(why)


def percent(value: float, why: str = "there is no value") -> str:
    """Write a signed share as a percentage."""
    if not math.isfinite(value):
        return _dash(why)
    return number(100 * value, 0, sign=True) + " %"


def _dash(why: str) -> Markup:
    return Markup(
        '<span class="none" title="{0}">–<span class="unseen"> ({0})</span></span>'
    ).format(why)


def duration(seconds: float) -> str:
    """Write a time with the unit that suits it."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def size(count: int) -> str:
    """Write bytes, decimal units."""
    for unit, factor in (("GB", KILO * MEGA), ("MB", MEGA), ("kB", KILO)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count} bytes"


# --- sites' own files --------------------------------------------------------------------


def worst_cases(files: SiteFiles, most: int = WORST_CASES) -> list[WorstCase]:
    """Return the labels of cases with the lowest federated Dice.

    Of equals, the one that the model trained alone did better comes first.
    """
    alone = {
        (r.site, r.case, r.modality, r.label): r.dice for r in files.cases if r.model == "alone"
    }
    rows = [
        WorstCase(
            site=r.site,
            case=r.case,
            modality=r.modality,
            label=r.label,
            federated=r.dice,
            alone=alone.get((r.site, r.case, r.modality, r.label), math.nan),
            finding=_finding(r),
        )
        for r in files.cases
        if r.model == "federated" and math.isfinite(r.dice)
    ]
    return sorted(rows, key=_badness)[:most]


def _finding(row: CaseRow) -> str:
    if row.missed:
        return "did not find it"
    if row.spurious:
        return "marked it where the reference has none"
    return "marked it in part" if row.dice else "marked it elsewhere"


def _badness(row: WorstCase) -> tuple[float, float, str, str, str]:
    alone = row.alone if math.isfinite(row.alone) else 0.0
    return row.federated, -alone, row.site, row.case, row.label


# --- charts ------------------------------------------------------------------------------


def charts_of(facts: Facts) -> Charts:
    """Draw everything that the page shows."""
    best = facts.chosen.best
    mark = (float(best.round), f"best: round {best.round}") if best else None
    labels = [name for name in facts.study.label_names if name in facts.validation]
    names = {name for points in (facts.losses, *facts.validation.values()) for name in points}
    styles = {name: style for style, name in enumerate(sorted(names))}
    lines = {label: _series(facts.validation[label], styles) for label in labels}
    span = span_of(s for held in lines.values() for s in held)
    metric = Plot(
        key="metric",
        title="Mean over sites",
        x_label="Round",
        y_label="Validation Dice",
        series=(Series(name="mean over sites", points=facts.metric),),
        mark=mark,
    )
    loss = Plot(
        key="loss",
        title="Training loss",
        x_label="Round",
        y_label="Mean training loss",
        series=_series(facts.losses, styles),
    )
    return Charts(
        means=tuple(_mean_intervals(facts)),
        labels=tuple(_label_intervals(facts)),
        metric=line_chart(metric),
        validation=tuple(
            line_chart(
                Plot(
                    key=f"validation-{index}",
                    title=label,
                    x_label="Round",
                    y_label="Validation Dice",
                    series=lines[label],
                    span=span,
                )
            )
            for index, label in enumerate(labels)
        ),
        loss=line_chart(loss),
        rounds=tuple(_round_charts(facts)),
    )


def _series(points: Points, styles: Mapping[str, int] | None = None) -> tuple[Series, ...]:
    known = styles or {name: style for style, name in enumerate(points)}
    return tuple(Series(name=n, points=held, style=known[n]) for n, held in points.items())


def _mean_intervals(facts: Facts) -> Iterator[Figure]:
    rows = [
        _interval(c.mean, f"{c.site} · {modality_name(c.modality)}") for c in facts.comparisons
    ]
    held = [r for r in rows if r is not None]
    if held:
        yield interval_chart("means", "Mean over labels, by site", held, _span(held))


def _label_intervals(facts: Facts) -> Iterator[Figure]:
    by_site = [
        (c, [r for r in (_interval(row, row.label) for row in c.labels) if r is not None])
        for c in facts.comparisons
    ]
    span = _span([r for _, rows in by_site for r in rows])
    for index, (c, rows) in enumerate(by_site):
        if rows:
            title = f"{c.site} · {modality_name(c.modality)}"
            yield interval_chart(f"labels-{index}", title, rows, span)


def _interval(row: Comparison, name: str) -> Interval | None:
    found = row.difference
    if found is None:
        return None
    return Interval(
        name=name,
        mean=found.mean,
        low=found.low,
        high=found.high,
        cases=found.cases,
        strong=row.label == "mean",
    )


def _span(rows: list[Interval]) -> tuple[float, float]:
    values = [v for r in rows for v in (r.low, r.high, r.mean) if math.isfinite(v)]
    return min(values, default=-0.1), max(values, default=0.1)


def _round_charts(facts: Facts) -> Iterator[Figure]:
    rounds = facts.rounds
    times = {
        "whole round": tuple((float(c.number), c.seconds) for c in rounds),
        "averaging": tuple((float(c.number), c.fold_seconds) for c in rounds),
        "gap before": tuple((float(c.number), c.gap_seconds) for c in rounds),
    }
    yield line_chart(
        Plot(
            key="seconds",
            title="Time per round",
            x_label="Round",
            y_label="Seconds",
            series=_series(times),
            span=_from_zero(_series(times)),
        )
    )
    traffic = {
        "sent to sites": [(c.number, sum(a.sent for a in c.accepted)) for c in rounds],
        "received": [(c.number, sum(a.received for a in c.accepted)) for c in rounds],
    }
    largest = max((n for held in traffic.values() for _, n in held), default=0)
    unit, factor = ("MB", MEGA) if largest >= MEGA else ("kB", KILO)
    scaled = {
        name: tuple((float(at), count / factor) for at, count in held)
        for name, held in traffic.items()
    }
    yield line_chart(
        Plot(
            key="traffic",
            title="Data per round, all sites",
            x_label="Round",
            y_label=unit,
            series=_series(scaled),
            span=_from_zero(_series(scaled)),
            digits=1,
        )
    )


def _from_zero(series: tuple[Series, ...]) -> tuple[float, float]:
    return 0.0, max((y for s in series for _, y in s.points if math.isfinite(y)), default=1.0)
