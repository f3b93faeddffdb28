"""What may be said of runs: scores with intervals over places and seeds, comparisons in pairs, drops between sets.

All of it is read off what evaluations left in the runs' folders, as rows of strings for a terminal and for the report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from cropseg import metrics
from cropseg.calibration import Reliability, recalibrated
from cropseg.core.errors import InputError
from cropseg.core.labels import BACKGROUND
from cropseg.details import Details
from cropseg.intervals import Comparison, Interval, Intervals, compare_all, drop, holm, intervals
from cropseg.redraw import LEAST_PLACES, Places
from cropseg.runs import Run
from cropseg.scores import INTERNAL, MEANS, PROTOCOLS, Evaluation, Protocol, Scope, format_score
from cropseg.seeds import Spread, over_seeds, sets_of

NOT_STORED: Final = "no details are stored with its evaluation: evaluate again"
"""Reason where an evaluation was made before details were stored."""

INTERVAL_COLUMNS: Final = (
    *("evaluation set", "protocol", "model", "seeds", "drawn over"),
    *(title for title, _ in MEANS.values()),
    "note",
)
BRIEF: Final = ("miou_present", "pixel_accuracy")
BRIEF_COLUMNS: Final = (*INTERVAL_COLUMNS[:5], *(MEANS[key][0] for key in BRIEF), "note")
COMPARISON_COLUMNS: Final = (
    *("evaluation set", "protocol", "first", "second", "first - second", "p", "p, Holm", "drawn over", "says"),
)
ONCE_COLUMNS: Final = (
    *("evaluation set", "protocol", "model", "counted", "pixels"),
    *(title for title, _ in MEANS.values()),
)

COVERAGES: Final = (0.9, 0.7, 0.5)
"""Shares of the pixels, surest first, that selective accuracy is shown for."""

CONFIDENCE_COLUMNS: Final = (
    *("model", "seeds", "pixel acc.", "mean confidence", "ECE", "ECE, mended"),
    *(f"acc. of the surest {share:.0%}" for share in COVERAGES),
)


@dataclass(frozen=True)
class Scored:
    """A model over its seeds on one evaluation set.

    Attributes:
        model: What tables call it.
        on: What was scored.
        runs: One a seed.
        evaluations: Theirs, all of the same patches.
        details: What lies beside them; empty where it is missing for one.
    """

    model: str
    on: Scope
    runs: tuple[Run, ...]
    evaluations: tuple[Evaluation, ...]
    details: tuple[Details, ...]

    @property
    def first(self) -> Evaluation:
        """The evaluation of the first seed; what it was evaluated on is the same for all."""
        return self.evaluations[0]

    @property
    def protocol(self) -> Protocol:
        """The protocol that the set is meant for."""
        return self.first.protocol

    @property
    def seeds(self) -> str:
        """How many seeds, and which."""
        return f"{len(self.runs)} ({', '.join('?' if run.seed is None else str(run.seed) for run in self.runs)})"

    @property
    def places(self) -> list[Places]:
        """What intervals are drawn over, of each seed."""
        return [one.clusters for one in self.details]

    @property
    def drawn_over(self) -> str:
        """What its places are, in the plural; empty where that is not stored."""
        if not self.details:
            return ""
        return "parcels and years" if "parcel" in self.details[0].clusters_are else "places"

    def why(self, part: str) -> str:
        """Why a part of the details is missing; of the first seed that lacks it."""
        reasons = (details.without[part] for details in self.details if part in details.without)
        return next(reasons, "not stored") if self.details else NOT_STORED

    def mean(self, key: str, protocol: Protocol) -> float:
        """A score of :data:`cropseg.scores.MEANS`, its mean over the seeds; NaN where none has it."""
        return Spread.of([one.scores(protocol)[key] for one in self.evaluations]).mean


def scored(runs: Sequence[Run], on: Scope | str) -> list[Scored]:
    """The models that were scored on a set, each over its seeds, with what lies beside the matrices.

    Args:
        runs: The runs.
        on: What was scored; a name stands for every set of that name.
    """
    key = on if isinstance(on, str) else on.key
    found = []
    for one in over_seeds(runs, on):
        beside = [run.details(key) for run in one.runs]
        known = tuple(details for details in beside if details is not None)
        scope = Scope.of(one.evaluations[0], key=key)
        found.append(Scored(one.model, scope, one.runs, one.evaluations, known if len(known) == len(beside) else ()))
    return found


def intervals_of(one: Scored, protocol: Protocol) -> Intervals | str:
    """Intervals of a model on a set, or the reason why there are none."""
    if not one.details:
        return NOT_STORED
    try:
        return intervals(one.places, protocol)
    except InputError as error:
        return _refused(error, one.drawn_over)


def interval_rows(runs: Sequence[Run], keys: Sequence[str] | None, *, brief: bool = False) -> list[tuple[str, ...]]:
    """Scores with their intervals: set × protocol × model, the protocol that a set is meant for first.

    Args:
        runs: Seeds of one model are put together.
        keys: Names of the sets to show, in their order; None for all.
        brief: That protocol alone and two of the means, for a terminal (:data:`BRIEF_COLUMNS`).

    Returns:
        Rows of :data:`INTERVAL_COLUMNS`. Where there is no interval, the bare score, and the reason in the note.
    """
    rows = []
    for on, title in sets_of(runs, keys).items():
        models = scored(runs, on)
        for protocol in sorted(PROTOCOLS, key=lambda name: name != on.protocol):
            if not brief or protocol == on.protocol:
                means = BRIEF if brief else tuple(MEANS)
                rows += [(title, *_interval_row(one, protocol, means)) for one in models]
    return rows


def _interval_row(one: Scored, protocol: Protocol, means: Sequence[str]) -> tuple[str, ...]:
    found = intervals_of(one, protocol)
    notes = [found] if isinstance(found, str) else []
    notes += [mark for mark, _ in one.first.marks]
    if isinstance(found, str):
        scores = [evaluation.scores(protocol) for evaluation in one.evaluations]
        cells = [format_score(Spread.of([score[key] for score in scores]).mean) for key in means]
        over = ""
    else:
        cells = [ends(found.means[key]) for key in means]
        over = f"{found.means[means[0]].clusters} {one.drawn_over}"
    return (PROTOCOLS[protocol], one.model, one.seeds, over, *cells, "; ".join(notes))


def comparisons(
    runs: Sequence[Run], keys: Sequence[str] | None, score: str = "miou_present"
) -> tuple[list[tuple[Scored, Scored, Comparison, float]], list[str]]:
    """Every two models on each set, paired by place, with Holm's p-value over all of them; and why others are missing.

    The protocol is the one that a set is meant for.
    """
    found: list[tuple[Scored, Scored, Comparison]] = []
    reasons: dict[str, None] = {}
    for on, title in sets_of(runs, keys).items():
        every = scored(runs, on)
        if len(every) > 1 and not all(one.details for one in every):
            names = ", ".join(one.model for one in every if not one.details)
            reasons[f"{title}: {names}: {NOT_STORED}"] = None
        alike = [one for one in every if one.details]
        if len(alike) < 2:
            continue
        try:
            pairs = compare_all([one.places for one in alike], score, on.protocol)
        except InputError as error:
            reasons[f"{title}: {_refused(error, alike[0].drawn_over)}"] = None
            continue
        found += [(alike[i], alike[j], one) for (i, j), one in pairs.items()]
    corrected = holm({str(i): one.p for i, (_, _, one) in enumerate(found)})
    return [(*pair, p) for pair, p in zip(found, corrected.values(), strict=True)], list(reasons)


def comparison_rows(
    runs: Sequence[Run], keys: Sequence[str] | None, score: str = "miou_present"
) -> tuple[list[tuple[str, ...]], list[str]]:
    """Rows of :data:`COMPARISON_COLUMNS`, one a set and pair of models; and why others are missing."""
    found, reasons = comparisons(runs, keys, score)
    names = sets_of(runs, keys)
    rows: list[tuple[str, ...]] = []
    for first, second, one, p in found:
        seeds = one.label if one.seeds == (1, 1) else f"{one.label}; {one.seeds[0]} and {one.seeds[1]} seeds"
        where = (names[first.on], PROTOCOLS[first.protocol], first.model, second.model)
        over = f"{one.clusters} {first.drawn_over}"
        rows.append((*where, signed(one), p_value(one.p), p_value(p), over, seeds))
    return rows, reasons


@dataclass(frozen=True)
class Drop:
    """How much lower a model scores on another set than on the internal one.

    Attributes:
        model: What tables call it.
        inner: The model on the internal set.
        outer: On the other, the same seeds.
        protocol: Which pixels count, on both: labelled crop pixels where one of them knows no others.
    """

    model: str
    inner: Scored
    outer: Scored
    protocol: Protocol

    @cached_property
    def found(self) -> Intervals | str:
        """The differences with their intervals; the reason where there are none."""
        return _dropped(self.inner, self.outer, self.protocol)

    def of(self, key: str) -> float:
        """How much lower a score of :data:`cropseg.scores.MEANS` is; NaN where the sets have other classes."""
        if self.inner.first.classes != self.outer.first.classes:
            return math.nan
        return self.inner.mean(key, self.protocol) - self.outer.mean(key, self.protocol)


def drops(runs: Sequence[Run], on: Scope | str) -> list[Drop]:
    """The drop of each model from ``internal`` to another set: of the same seeds, both with or without augmentation.

    Of a model with more seeds on one of the two, those that were scored on both.
    """
    found = []
    for outer in scored(runs, on):
        base = INTERNAL + "".join(outer.on.key.partition("+")[1:])
        inner = max(scored(outer.runs, base), key=lambda one: len(one.runs), default=None)
        if inner is None:
            continue
        if len(inner.runs) < len(outer.runs):
            (outer,) = scored(inner.runs, outer.on)
        protocol: Protocol = "crop" if "crop" in (inner.protocol, outer.protocol) else "all"
        found.append(Drop(outer.model, inner, outer, protocol))
    return found


def _dropped(inner: Scored, outer: Scored, protocol: Protocol) -> Intervals | str:
    if not (inner.details and outer.details):
        return NOT_STORED
    if inner.first.classes != outer.first.classes:
        return "the sets have other classes"
    try:
        return drop(inner.places, outer.places, protocol)
    except InputError as error:
        return _refused(error, "places")


def once_rows(runs: Sequence[Run], keys: Sequence[str] | None) -> list[tuple[str, ...]]:
    """Rows of :data:`ONCE_COLUMNS` where windows overlap: every window counted, and each ground pixel once."""
    rows = []
    for on, title in sets_of(runs, keys).items():
        for one in scored(runs, on):
            known = [details.once for details in one.details if details.once is not None]
            if not known or len(known) < len(one.runs):
                continue
            ways = {"every window": [e.confusion for e in one.evaluations], "each pixel once": known}
            for way, stack in ways.items():
                found = [metrics.scores(matrix, one.protocol) for matrix in stack]
                cells = (str(Spread.of([of_seed[name] for of_seed in found])) for name in MEANS)
                rows.append((title, PROTOCOLS[one.protocol], one.model, way, f"{found[0]['pixels']:,}", *cells))
    return rows


def confidence_rows(models: Sequence[Scored]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Rows of :data:`CONFIDENCE_COLUMNS`, under the protocol that the set is meant for; and why parts are missing."""
    rows: list[tuple[str, ...]] = []
    reasons: dict[str, None] = {}
    for one in models:
        known = [details.reliability[one.protocol] for details in one.details if details.reliability]
        if not known or len(known) < len(one.runs):
            reasons[f"{one.model}: {one.why('reliability')}"] = None
            continue
        mended = _mended(one)
        if isinstance(mended, str):
            reasons[f"{one.model}, mended: {mended}"] = None
        cells = [
            Spread.of([h.accuracy for h in known]),
            Spread.of([h.claimed for h in known]),
            Spread.of([h.ece() for h in known]),
            "n/a" if isinstance(mended, str) else Spread.of([h.ece() for h in mended]),
            *(Spread.of([h.accuracy_at(share) for h in known]) for share in COVERAGES),
        ]
        rows.append((one.model, one.seeds, *map(str, cells)))
    return rows, list(reasons)


def _mended(one: Scored) -> list[Reliability] | str:
    """The reliability of each seed after its confidence was mended on its validation part; or why it cannot be."""
    found = []
    for run, details in zip(one.runs, one.details, strict=True):
        validated = run.validated(one.first.tta)
        if validated is None or "recalibration" in details.without:
            return details.without.get("recalibration", "confidence on the validation part is not stored")
        try:
            found.append(recalibrated(details.reliability[one.protocol], validated[one.protocol]))
        except InputError as error:
            return error.what
    return found


def counted_classes(one: Evaluation, protocol: Protocol) -> list[int]:
    """Ids of the classes that have a row under a protocol: background has none among labelled crop pixels."""
    return [i for i in range(len(one.classes)) if protocol == "all" or i != BACKGROUND]


def ends(one: Interval, places: bool = False) -> str:
    """``value [low, high]``; where there are no ends the value alone, with the number of places if asked for."""
    if math.isnan(one.value):
        return "n/a"
    if math.isnan(one.low):
        return f"{format_score(one.value)} ({one.clusters} places)" if places else format_score(one.value)
    return f"{format_score(one.value)} [{format_score(one.low)}, {format_score(one.high)}]"


def signed(one: Interval | Comparison) -> str:
    """A difference with its sign, and its interval; where there is none, the number of places that were too few."""
    value = one.value if isinstance(one, Interval) else one.difference
    if math.isnan(value):
        return "n/a"
    if math.isnan(one.low):
        return f"{value:+.4f} ({one.clusters} places)"
    return f"{value:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"


def p_value(p: float) -> str:
    """Three digits behind the point; below that, that it is below."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _refused(error: InputError, what: str) -> str:
    """Why there is no interval, in a table's words."""
    if isinstance(error.value, int):
        what = "place" if (error.value, what) == (1, "places") else what
        return f"{error.value} {what}: no interval below {LEAST_PLACES}"
    return f"{error.what}: {error.value}"
