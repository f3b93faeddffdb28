"""One model under several splits of the same patches: how much of its score a loose split gives it.

Each run is scored on the test part of its own split. What is told of a split beside the score is how much of its test
ground also lies in its training part, on whatever date.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from cropseg import cli, intervals
from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError, MismatchError
from cropseg.core.manifest import Dataset, open_dataset, read_table
from cropseg.core.progress import say, table, warn
from cropseg.details import matrices
from cropseg.evaluate import EvaluationSet, examine
from cropseg.ground import places, shared_area, shared_ground
from cropseg.leakage_tables import Gap, SplitScore, gap_table, notes, split_table
from cropseg.metrics import Protocol, scores
from cropseg.redraw import Places
from cropseg.report.tables import Table
from cropseg.runs import NOT_OF_A_MODEL, Run, open_run, open_runs
from cropseg.scores import MEANS, PROTOCOLS
from cropseg.seeds import Spread

ORDER: Final = ("random", "location", "block", "country")
"""Splits from the loosest to the strictest; others stand after them."""

OWN_TEST: Final = EvaluationSet("internal", None, None, note="held-out ground of the training regions")
"""What each run is scored on: the test part of the split that it was trained with."""


class AfterSweep(Callback):
    """Checks the splits before the first job of ``experiment=leakage``, and makes the table after the last."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse splits that the dataset does not have, before an hour is spent on those that it has."""
        with cli.one_line_errors():
            check_splits(Path(str(config.dataset.root)), asked_splits(config))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Score the jobs and put them side by side."""
        with cli.one_line_errors():
            tabulate(str(config.hydra.sweep.dir), config.paths.runs)


def asked_splits(config: DictConfig) -> list[str]:
    """Values of ``dataset.split`` that a sweep goes through."""
    params = OmegaConf.select(config, "hydra.sweeper.params", default=None) or {}
    words = [f"{key}={value}" for key, value in params.items()]
    words += list(OmegaConf.select(config, "hydra.overrides.task", default=None) or ())
    splits = [str(config.dataset.split)]
    for override in OverridesParser.create().parse_overrides(words):
        if override.key_or_group == "dataset.split":  # a later word counts, as it does for the sweeper
            swept = override.is_sweep_override()
            splits = [str(one) for one in override.sweep_string_iterator()] if swept else [str(override.value())]
    return splits


def check_splits(root: Path, splits: Sequence[str]) -> None:
    """Refuse fewer than two splits, and those that the dataset at ``root`` does not have.

    Raises:
        ConfigError: There is nothing to compare.
        InputError: There is no dataset, or it lacks some; the remedy is the command that draws them.
    """
    remedy = f"python splits.py root={root}"
    if len(set(splits)) < 2:
        raise ConfigError("experiment=leakage compares splits", ", ".join(splits), "give dataset.split two or more")
    if not (root / "manifest.parquet").is_file():
        raise InputError(
            f"no dataset at {root}", None, f"prepare it (python prepare.py), then draw its splits: {remedy}"
        )
    missing = [split for split in splits if not (root / "splits" / f"{split}.parquet").is_file()]
    if missing:
        there = [split for split in splits if split not in missing]
        without = f"; without them: dataset.split={','.join(there)}" if len(there) > 1 else ""
        raise InputError(f"dataset {root} has no split", ", ".join(missing), f"draw what is missing: {remedy}{without}")


def tabulate(
    run: object,
    runs: str | Path,
    out: str | Path | None = None,
    score: str = "miou_present",
    protocol: Protocol = "all",
    batch_size: int = 8,
) -> tuple[Table, Table]:
    """Score what is not scored yet, print both tables and write ``leakage.md``, ``leakage.csv``, ``leakage_gaps.csv``.

    Args:
        run: The sweep's folder, or a list of runs and sweeps.
        runs: Where runs lie.
        out: Folder of the files; None: the sweep's, or that of the first run.
        score: Key of :data:`cropseg.scores.MEANS`.
        protocol: Which pixels count.
        batch_size: Patches at a time, where a run is yet to be scored.

    Returns:
        The splits, and the gaps between them.

    Raises:
        ConfigError: An unknown score or protocol.
        MismatchError: The runs differ in more than split and seed, or have one split only.
    """
    if score not in MEANS or protocol not in PROTOCOLS:
        remedy = f"choose from {', '.join(MEANS)}, and from {', '.join(PROTOCOLS)}"
        raise ConfigError("no such score or protocol", f"{score}, {protocol}", remedy)
    opened = open_runs(run, runs)
    groups = by_split(opened)
    dataset = _dataset(opened[0])
    scored = _scored(opened, batch_size)
    place = dict(zip(dataset.manifest["id"].to_pylist(), places(dataset, range(len(dataset))), strict=True))
    found = [
        _split_score(dataset, split, [scored[one.path] for one in group], place, score, protocol)
        for split, group in groups.items()
    ]
    remarks = notes(score, protocol, simulated=dataset.spec.simulated)
    model = opened[0].model
    splits = split_table(
        found, f"{model} under {len(found)} splits of the {len(dataset)} patches of {dataset.spec.name}", score
    )
    between = gap_table(gaps(found, place, score, protocol), score)
    for one in (splits, between):
        table(one.title, [column.title for column in one.columns], one.rows)
    for note in remarks:
        say(note)
    folder = _folder(run, opened) if out is None else Path(out)
    text = "\n".join([splits.to_markdown(), between.to_markdown(), *(f"- {note}" for note in remarks)]) + "\n"
    storage.write_bytes(folder / "leakage.md", text.encode())
    storage.write_bytes(folder / "leakage.csv", splits.to_csv().encode())
    storage.write_bytes(folder / "leakage_gaps.csv", between.to_csv().encode())
    say(f"wrote {folder / 'leakage.md'}, {folder / 'leakage.csv'} and {folder / 'leakage_gaps.csv'}")
    return splits, between


def by_split(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each split, from the loosest to the strictest; each seed once.

    Raises:
        MismatchError: They differ in more than split and seed, were trained on different patches, or have one split.
    """
    kept: dict[str, str] = {}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        config: Any = OmegaConf.to_container(run.config, resolve=False)
        rest = {key: value for key, value in config.items() if key not in NOT_OF_A_MODEL}
        if isinstance(rest.get("dataset"), dict):
            rest["dataset"] = {key: value for key, value in rest["dataset"].items() if key not in ("split", "root")}
        told_first = {"model option": run.model, "training patches": run.spec.manifest_digest}
        for what, value in {**told_first, **rest}.items():
            text = json.dumps(value, sort_keys=True, default=str)
            if kept.setdefault(what, text) != text:
                remedy = "name runs of one sweep of experiment=leakage"
                raise MismatchError(f"the runs differ in {what}, not in split and seed alone", run.name, remedy)
        group = groups.setdefault(run.spec.split, [])
        if run.seed is not None and any(other.seed == run.seed for other in group):
            warn(f"{run.name} is left out: seed {run.seed} under split {run.spec.split} is there already")
        else:
            group.append(run)
    if len(groups) < 2:
        remedy = "train under several: python train.py experiment=leakage"
        raise MismatchError("all runs were trained under one split", ", ".join(groups), remedy)

    def rank(split: str) -> int:
        kind = split.removesuffix("_even")  # of splits.py even=true
        return ORDER.index(kind) if kind in ORDER else len(ORDER)

    return {split: groups[split] for split in sorted(groups, key=rank)}


def gaps(found: Sequence[SplitScore], place: Mapping[str, str], score: str, protocol: Protocol) -> list[Gap]:
    """Every two splits, the looser first.

    The test parts differ. So places are drawn out of all that either holds, and each draw gives both their part of it:
    a place that both hold is drawn for both, so the gap is paired there and not elsewhere. On the patches that both
    hold, which may be few, the two are compared by themselves.

    Args:
        found: The splits, from the loosest to the strictest.
        place: Place of each patch.
        score: Key of :data:`cropseg.scores.MEANS`.
        protocol: Which pixels count.
    """
    found_gaps = []
    for one, other in combinations(found, 2):
        everywhere = {*one.places[0], *other.places[0]}
        common = {*one.patches[0]} & {*other.patches[0]}
        whole = [[_padded(run, everywhere) for run in side.places] for side in (one, other)]
        same = [
            [_by_place({patch: run[patch] for patch in common}, place) for run in side.patches] for side in (one, other)
        ]
        means = [np.mean([_score(run, score, protocol) for run in side]) if common else math.nan for side in same]
        found_gaps.append(
            Gap(
                looser=one.split,
                stricter=other.split,
                value=one.score.mean - other.score.mean,
                found=_compared(whole, score, protocol),
                both=len({*one.places[0]} & {*other.places[0]}),
                same_patches=len(common),
                same=float(means[0] - means[1]),
                same_found=_compared(same, score, protocol),
            )
        )
    corrected = intervals.holm({str(n): gap.found.p for n, gap in enumerate(found_gaps) if gap.found is not None})
    return [replace(gap, p=corrected.get(str(n), math.nan)) for n, gap in enumerate(found_gaps)]


def _compared(sides: Sequence[Sequence[Places]], score: str, protocol: Protocol) -> intervals.Comparison | None:
    """The difference of two splits; None where one of them has too few places."""
    try:
        return intervals.compare(sides[0], sides[1], score, protocol)
    except InputError:
        return None


def _score(run: Places, score: str, protocol: Protocol) -> float:
    return float(scores(np.sum(list(run.values()), axis=0), protocol)[score])


def _padded(run: Places, everywhere: Iterable[str]) -> Places:
    """With an empty matrix for each place that the run holds nothing of."""
    none = np.zeros_like(next(iter(run.values())))
    return {name: run.get(name, none) for name in everywhere}


def _scored(runs: Sequence[Run], batch_size: int) -> dict[Path, Run]:
    """The runs with an evaluation of their own test part, and what lies beside it; those that lack it are scored."""

    def lacks(run: Run) -> bool:
        one = run.evaluations.get(OWN_TEST.name)
        of_this = one is not None and (one.manifest_digest, one.split, one.part) == (
            run.spec.manifest_digest, run.spec.split, OWN_TEST.part,
        )  # fmt: skip
        return not of_this or run.details(OWN_TEST.name) is None

    found = {}
    for run in runs:
        found[run.path] = run
        if lacks(run):
            evaluation, beside = examine(run.predictor, OWN_TEST.of(run), batch_size)
            run.store(evaluation, replace(beside, without={**beside.without, "recalibration": "it was not asked for"}))
            run.release()
            found[run.path] = open_run(run.path)
    return found


def _split_score(
    dataset: Dataset, split: str, runs: Sequence[Run], place: Mapping[str, str], score: str, protocol: Protocol
) -> SplitScore:
    parts = dataset.parts(split)
    train, test = ([int(row) for row in parts[part]] for part in ("train", "test"))
    ids = dataset.manifest["id"]
    trained_places = {place[ids[row].as_py()] for row in train}
    tested_places = {place[ids[row].as_py()] for row in test}
    patches = tuple(_by_patch(run) for run in runs)
    stacks = tuple(_by_place(run, place) for run in patches)
    values = [run.evaluations[OWN_TEST.name].scores(protocol)[score] for run in runs]
    try:
        interval = intervals.intervals(stacks, protocol).means[score]
    except InputError:  # too few places
        interval = None
    return SplitScore(
        split=split,
        seeds=tuple(run.seed for run in runs),
        train=len(train),
        test=len(test),
        patches=patches,
        places=stacks,
        test_places=len(tested_places),
        test_groups=_groups(dataset, split),
        area_in_train=shared_area(dataset, test, train),
        patches_in_train=shared_ground(dataset, test, [(dataset, train)]) or 0.0,
        places_in_train=len(tested_places & trained_places) / len(tested_places),
        score=Spread.of(values),
        interval=interval,
    )


def _groups(dataset: Dataset, split: str) -> int:
    table = read_table(dataset.root / "splits" / f"{split}.parquet")
    ids = set(dataset.manifest["id"].to_pylist())
    rows = zip(table["id"].to_pylist(), table["part"].to_pylist(), table["group"].to_pylist(), strict=True)
    return len({group for patch, part, group in rows if part == "test" and patch in ids})


def _by_patch(run: Run) -> Places:
    """Confusion matrix of each test patch."""
    details = run.details(OWN_TEST.name)
    if details is None:
        raise InputError(f"{run.path} holds no scores by patch", None, "run the same command again")
    return dict(zip(details.patches["id"].to_pylist(), matrices(details.patches), strict=True))


def _by_place(patches: Places, place: Mapping[str, str]) -> Places:
    """Confusion matrix of each place, by names that are the same for every test part of the dataset."""
    found: dict[str, Any] = {}
    for patch, confusion in patches.items():
        name = place[patch]
        found[name] = found[name] + confusion if name in found else confusion
    return found


def _dataset(run: Run) -> Dataset:
    """What the runs were trained on.

    Raises:
        InputError: It is gone, or was prepared again since.
    """
    root = run.dataset_root
    dataset = None if root is None else open_dataset(root)
    if dataset is None or dataset.digest != run.spec.manifest_digest:
        raise InputError(
            f"the dataset that {run.name} was trained on is gone or was prepared again", root, "train again"
        )
    return dataset


def _folder(run: object, runs: Sequence[Run]) -> Path:
    return Path(run) if isinstance(run, str | Path) and Path(run).is_dir() else runs[0].path
