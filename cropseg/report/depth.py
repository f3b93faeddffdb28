"""What the report says beyond one score a model: how sure it is, what differs between models, and where it is wrong.

Every function takes runs and gives tables. A table without rows stands for a part that does not exist; its note says
why. Nothing is computed that needs a model: all is read off what lies beside the confusion matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, get_args

from cropseg import evidence, metrics
from cropseg.breakdowns import By, Group, boundary_bands, groups, parcel_sizes
from cropseg.evidence import NOT_STORED, Drop, Scored, ends, scored, signed
from cropseg.intervals import FITTED_ONLY, LEAST_SEEDS, Intervals
from cropseg.metrics import Protocol
from cropseg.overlaps import RULE
from cropseg.redraw import LEAST_PLACES
from cropseg.report.tables import Column, Table, caveats
from cropseg.runs import Run
from cropseg.scores import INTERNAL, MEANS, PROTOCOLS, Scope
from cropseg.seeds import Spread, sets_of

MOST_ROWS: Final = 20
"""Longer breakdowns show half as many of the lowest and of the highest."""

NOT_EVALUATED: Final = "No run has been evaluated."

HEADS: Final[Mapping[By, str]] = {
    "country": "country",
    "subset": "subset",
    "product": "Sentinel-2 product",
    "month": "month of the image",
    "year": "year of the image",
    "cloud": "share of invalid pixels",
    "place": "place",
}

BROKEN_DOWN: Final = ("miou_present", "pixel_accuracy")
"""Scores of the parts of a set."""


def intervals(runs: Sequence[Run]) -> list[Table]:
    """All means of every model and set with their intervals, and the IoU of every class on each set."""
    note = (
        "Score [lower, upper end of its 95 % interval]. Whole places are drawn with replacement, 2000 times, with all "
        f"their dates and windows; to this the scatter of the seeds is added for models with {LEAST_SEEDS} or more; "
        f"others stand for the fitted model alone. Below {LEAST_PLACES} places there is no interval."
    )
    texts = ("evaluation set", "protocol", "model", "seeds", "drawn over", "note")
    rows = evidence.interval_rows(runs, None)
    means = Table("Scores with intervals over places", _columns(evidence.INTERVAL_COLUMNS, texts), tuple(rows), note)
    return [
        means if rows else _missing(means.title, NOT_EVALUATED),
        *(_classes(title, scored(runs, on)) for on, title in sets_of(runs).items()),
    ]


def _classes(title: str, models: Sequence[Scored]) -> Table:
    first = models[0]
    found = [evidence.intervals_of(one, first.protocol) for one in models]
    rows = []
    for i in evidence.counted_classes(first.first, first.protocol):
        cells = [
            ends(of_model.iou[i], places=True)
            if isinstance(of_model, Intervals)
            else str(Spread.of([e.scores(first.protocol)["iou"][i] for e in one.evaluations]))
            for one, of_model in zip(models, found, strict=True)
        ]
        rows.append((first.first.classes[i], *cells))
    told = (f"{one.model}: {reason}." for one, reason in zip(models, found, strict=True) if isinstance(reason, str))
    note = f"{_meant(models)} A class on fewer than {LEAST_PLACES} places has no interval: their number is in brackets."
    columns = (Column("class", text=True), *(Column(_named(one)) for one in models))
    return Table(f"IoU of the classes with intervals, {title}", columns, tuple(rows), " ".join([note, *told]))


def comparisons(runs: Sequence[Run]) -> list[Table]:
    """Every two models on the same places, corrected for the number of comparisons."""
    title = "Models compared on the same places"
    rows, reasons = evidence.comparison_rows(runs, None)
    told = [f"{reason[0].upper()}{reason[1:]}." for reason in reasons]
    if not rows:
        return [_missing(title, " ".join(told) or "No two models were scored on the same patches.")]
    note = (
        f"{MEANS['miou_present'][0]}: {MEANS['miou_present'][1]}. Each draw gives both models the same places, so that "
        "what makes a place hard for both cancels out. p is two-sided; p, Holm is corrected for all comparisons of "
        f"this table. With fewer than {LEAST_SEEDS} seeds a model, a comparison speaks of {FITTED_ONLY}: training them "
        "anew may turn it round."
    )
    texts = ("evaluation set", "protocol", "first", "second", "drawn over", "says")
    return [Table(title, _columns(evidence.COMPARISON_COLUMNS, texts), tuple(rows), " ".join([note, *told]))]


def drops(runs: Sequence[Run]) -> list[Table]:
    """How much each model loses from the internal set to each other one, in the means and class by class."""
    names = sets_of(runs)
    found: dict[tuple[Scope, Scope], list[Drop]] = {}
    for on in names:
        for one in evidence.drops(runs, on) if on.key.partition("+")[0] != INTERNAL else []:
            found.setdefault((one.inner.on, on), []).append(one)
    if not found:
        return [_missing("Drop from internal", "No model was scored on internal and on another set.")]
    return [_drop_table(names[home], names[away], alike) for (home, away), alike in found.items()]


def _drop_table(home: str, away: str, found: Sequence[Drop]) -> Table:
    title = f"Drop from {home} to {away}"
    reasons = [f"{one.model}: {one.found}." for one in found if isinstance(one.found, str)]
    known = [(one, one.found) for one in found if not isinstance(one.found, str)]
    if not known:
        return _missing(title, " ".join(reasons))
    first = known[0][0]
    titles = {"common": "mean IoU, classes on both", **{name: title for name, (title, _) in MEANS.items()}}
    rows = [(title, *(signed(of.means[name]) for _, of in known)) for name, title in titles.items()]
    for i in evidence.counted_classes(first.outer.first, first.protocol):
        cells = (signed(of.iou[i]) if of.iou[i].clusters else "not on both" for _, of in known)
        rows.append((first.outer.first.classes[i], *cells))
    note = (
        f"{PROTOCOLS[first.protocol].capitalize()} on both sets: score on {home} minus score on {away}, with its 95 % "
        "interval; above 0 is a loss. The places of each set are drawn by themselves. "
        "All means but the first average other classes where a class is on one set alone. Classes: IoU."
    )
    columns = (Column("score", text=True), *(Column(_named(one.outer)) for one, _ in known))
    return Table(title, columns, tuple(rows), " ".join([note, *reasons]))


def breakdowns(runs: Sequence[Run]) -> list[Table]:
    """Scores by country, subset, product, month, year, cloud share and place of each set."""
    found = []
    for on, title in sets_of(runs).items():
        alike = [one for one in scored(runs, on) if one.details]
        if not alike:
            found.append(_missing(f"Parts of {title}", f"{NOT_STORED[0].upper()}{NOT_STORED[1:]}."))
            continue
        same = []
        for by in get_args(By):
            parts = [[groups(details, by) for details in one.details] for one in alike]
            if by == "subset" and len(parts[0][0]) == len(
                {group.name for group in groups(alike[0].details[0], "country")}
            ):
                continue
            if len(parts[0][0]) == 1:
                same.append(f"{HEADS[by]}: {parts[0][0][0].name}")
            else:
                count = _patch_counts if by == "place" else _place_counts
                found.append(_parts(f"{title} by {HEADS[by]}", HEADS[by], alike, parts, count))
        if same and len(same) < len(get_args(By)):
            last = found[-1]
            note = f"{last.note} The same in all patches: {'; '.join(same)}."
            found[-1] = Table(last.title, last.columns, last.rows, note)
    return found or [_missing("Parts of the sets", NOT_EVALUATED)]


def boundary(runs: Sequence[Run]) -> list[Table]:
    """Scores by distance to the nearest edge, on each set."""
    return _bands(
        runs,
        "distance to the edge",
        "boundary",
        boundary_bands,
        lambda one: (
            f"Edges: {one.details[0].boundary_from or 'of parcels'}. Distance in pixels from the nearest edge; a "
            "pixel of 10 m at an edge mixes what lies on both sides."
        ),
    )


def parcels(runs: Sequence[Run]) -> list[Table]:
    """Parcels by the majority of their pixels, and pixels by the size of their parcel, on each set."""
    found = [_majority(title, scored(runs, on)) for on, title in sets_of(runs).items()]
    sizes = _bands(runs, "parcel size", "parcels", parcel_sizes, lambda one: "A parcel counts once for each image.")
    return [*found, *sizes]


def _majority(name: str, models: Sequence[Scored]) -> Table:
    title = f"Parcels of {name} by majority"
    rows = []
    reasons = []
    for one in models:
        matrices = [details.parcel_majority for details in one.details]
        known = [matrix for matrix in matrices if matrix is not None]
        if not known or len(known) < len(one.runs):
            reasons.append(f"{one.model}: {one.why('parcels')}.")
            continue
        of_parcels = [metrics.scores(matrix, one.protocol) for matrix in known]
        of_pixels = [evaluation.scores(one.protocol) for evaluation in one.evaluations]
        cells = [Spread.of([found[name] for found in side]) for name in BROKEN_DOWN for side in (of_parcels, of_pixels)]
        rows.append((one.model, one.seeds, f"{of_parcels[0]['pixels']:,}", *map(str, cells)))
    if not rows:
        return _missing(title, " ".join(dict.fromkeys(reasons)) or NOT_EVALUATED)
    names = (MEANS["miou_present"][0], "accuracy")
    heads = [f"{name}, {what}" for name in names for what in ("parcels", "pixels")]
    note = (
        f"{_meant(models)} A parcel has the class that most of its mapped pixels have; it counts once for each "
        "image, whatever its size."
    )
    return Table(title, _columns(("model", "seeds", "parcels", *heads), ("model", "seeds")), tuple(rows), note)


def calibration(runs: Sequence[Run]) -> list[Table]:
    """What the models' confidence is worth, as it is and mended on the validation part, on each set."""
    found = []
    for on, name in sets_of(runs).items():
        models = scored(runs, on)
        rows, reasons = evidence.confidence_rows(models)
        title = f"Confidence on {name}"
        told = [f"{reason}." for reason in reasons]
        if not rows:
            found.append(_missing(title, " ".join(told) or NOT_EVALUATED))
            continue
        note = (
            f"{_meant(models)} ECE: distance between confidence and share of correct pixels, mean over 15 bins "
            "weighted by pixels. Mended: by isotonic regression on the validation part alone. The surest pixels are "
            "those of highest confidence."
        )
        columns = _columns(evidence.CONFIDENCE_COLUMNS, ("model", "seeds"))
        found.append(Table(title, columns, tuple(rows), " ".join([note, *told])))
    return found or [_missing("Confidence", NOT_EVALUATED)]


def _bands(
    runs: Sequence[Run],
    what: str,
    part: str,
    read: Callable[..., list[Group]],
    note: Callable[[Scored], str],
) -> list[Table]:
    """One table a set of groups that are no patches."""
    found = []
    for on, name in sets_of(runs).items():
        models = scored(runs, on)
        having = [one for one in models if one.details and read(one.details[0])]
        title = f"{name} by {what}"
        if not having:
            reasons = dict.fromkeys(f"{one.model}: {one.why(part)}." for one in models)
            found.append(_missing(title, " ".join(reasons)))
            continue
        parts = [[read(details) for details in one.details] for one in having]
        count = _parcel_counts if part == "parcels" else _pixel_counts
        found.append(_parts(title, what, having, parts, count, note(having[0])))
    return found


def once(runs: Sequence[Run]) -> list[Table]:
    """Where windows overlap: scores with every window counted, as the paper does, and with each ground pixel once."""
    title = "Overlapping windows"
    rows = evidence.once_rows(runs, None)
    if not rows:
        return [_missing(title, "No windows of one image overlap, so every pixel is counted once.")]
    columns = _columns(evidence.ONCE_COLUMNS, ("evaluation set", "protocol", "model", "counted"))
    return [Table(title, columns, tuple(rows), f"{RULE[0].upper()}{RULE[1:]}.")]


Counts = Callable[[Group, Protocol], Mapping[str, int]]


def _patch_counts(group: Group, protocol: Protocol) -> Mapping[str, int]:
    return {"patches": group.patches, **_pixel_counts(group, protocol)}


def _place_counts(group: Group, protocol: Protocol) -> Mapping[str, int]:
    return {"places": len(group.places), **_patch_counts(group, protocol)}


def _parcel_counts(group: Group, protocol: Protocol) -> Mapping[str, int]:
    return {"parcels": group.parcels, **_pixel_counts(group, protocol)}


def _pixel_counts(group: Group, protocol: Protocol) -> Mapping[str, int]:
    return {"pixels": int(metrics.scores(group.confusion, protocol)["pixels"])}


def _parts(
    title: str, what: str, models: Sequence[Scored], parts: Sequence[list[list[Group]]], counts: Counts, note: str = ""
) -> Table:
    """Rows groups, columns models: the same groups in all, for all were scored on the same patches.

    Args:
        title: Of the table.
        what: Heading of the groups.
        models: Columns.
        parts: Groups of each seed of each model.
        counts: What is counted of a group.
        note: Stands below.
    """
    protocol = models[0].protocol
    rows = []
    for i, group in enumerate(parts[0][0]):
        found = [[metrics.scores(of_seed[i].confusion, protocol) for of_seed in of_model] for of_model in parts]
        numbers = [f"{number:,}" for number in counts(group, protocol).values()]
        cells = [str(Spread.of([one[name] for one in of_model])) for of_model in found for name in BROKEN_DOWN]
        rows.append((Spread.of([one["pixel_accuracy"] for one in found[0]]).mean, (group.name, *numbers, *cells)))
    told = [_meant(models), *([note] if note else []), "The mean IoU of a part averages the classes in it."]
    if len(rows) > MOST_ROWS:
        told.append(
            f"The {MOST_ROWS // 2} lowest and the {MOST_ROWS // 2} highest of {len(rows)}, by the pixel accuracy of "
            f"{models[0].model}; those without a pixel that counts are left out."
        )
        ranked = sorted((one for one in rows if one[0] == one[0]), key=lambda one: one[0])
        rows = ranked if len(ranked) <= MOST_ROWS else [*ranked[: MOST_ROWS // 2], *ranked[-MOST_ROWS // 2 :]]
    numbers = list(counts(parts[0][0][0], protocol))
    heads = [f"{_named(one)}: {MEANS[name][0]}" for one in models for name in BROKEN_DOWN]
    return Table(title, _columns((what, *numbers, *heads), (what,)), tuple(row for _, row in rows), " ".join(told))


def _named(one: Scored) -> str:
    return f"{one.model}, {'one seed' if len(one.runs) == 1 else f'{len(one.runs)} seeds'}"


def _meant(models: Sequence[Scored]) -> str:
    """Protocol and caveats of a set."""
    text = "; ".join([PROTOCOLS[models[0].protocol], *caveats(models)])
    return f"{text[0].upper()}{text[1:]}."


def _missing(title: str, reason: str) -> Table:
    return Table(title, (), (), reason)


def _columns(heads: Sequence[str], texts: Sequence[str]) -> tuple[Column, ...]:
    rules = {title: rule for title, rule in MEANS.values()}
    return tuple(Column(head, rules.get(head, ""), text=head in texts) for head in heads)
