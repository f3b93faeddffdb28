"""What each silent error of this field costs in mIoU, on the simulated regions, where truth is exact.

    python benchmarks/what_breaks.py [--data outputs/data] [--work outputs/what_breaks] [--nets <folder of runs>]
                                     [--fast] [--write docs/what-breaks.md]

Prepares what is missing, trains a small U-Net (experiment=demo) and a spectral forest over three seeds on right data,
gives them the wrong data of silent_errors.py, trains again on these, and prints the cost: score on right data less
score on wrong data, with an interval over places (and seeds, where a model was trained again). What was done is found
again, so a run that was stopped goes on; costs and intervals are always computed anew from the stored matrices.
Simulated: measures what the errors do, not how well crops can be mapped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import silent_errors as wrong
from silent_errors import REPO, SPLIT, Change, Source, place

from cropseg.cli import one_line_errors
from cropseg.core import storage
from cropseg.core.bands import NODATA
from cropseg.core.errors import InputError
from cropseg.core.labels import IGNORE
from cropseg.core.manifest import open_dataset
from cropseg.core.progress import say, table, track, warn
from cropseg.intervals import compare, holm
from cropseg.metrics import confusion_matrix, scores
from cropseg.runs import Run, finished, open_run
from data_prep.align import AlignedProduct
from data_prep.ensure import ensure

SCORE = "miou_present"
MARKS = ("<!-- made by: python benchmarks/what_breaks.py --write docs/what-breaks.md -->", "<!-- end -->")
NET, FOREST = "unet", "forest"


@dataclass(frozen=True)
class Error:
    """A silent error.

    Attributes:
        name: Name of its datasets.
        title: What a reader calls it.
        change: Makes the wrong patches.
        right: Makes the patches that the wrong ones are compared with; None for the dataset as it is.
        size: Window size that the change leaves, None for the dataset's.
        trained: Whether models are also trained with it: none, the forest, or both.
        models: To which models it makes a difference.
        evaluated: Whether it can sit in the evaluation alone.
    """

    name: str
    title: str
    change: Change
    right: Change | None = None
    size: int | None = None
    trained: tuple[str, ...] = (FOREST,)
    models: tuple[str, ...] = (NET, FOREST)
    evaluated: bool = True


ERRORS = (
    Error("offset_forgotten", "BOA offset forgotten", wrong.read_again(boa_offset="ignore")),
    Error("offset_doubled", "BOA offset applied twice", wrong.read_again(offset_times=2)),
    Error("half_pixel", "labels half a pixel off, down and right", wrong.half_a_pixel),
    Error("swapped_colours", "red and blue exchanged", wrong.swapped_colours),
    Error("sorted_bands", "bands in the order of their names", wrong.sorted_bands),
    Error("scl_bilinear", "scene classes resampled bilinearly", wrong.chosen_by_scl(wrong.BilinearScl),
          wrong.chosen_by_scl(AlignedProduct), trained=()),
    Error("zero_filled", "no data taken for a reflectance of 0, three tenths of each patch", wrong.zero_gap,
          wrong.right_gap),
    Error("label_noise_10", "another crop on 10 % of the parcels", wrong.label_noise(0.1)),
    Error("label_noise_20", "another crop on 20 % of the parcels", wrong.label_noise(0.2)),
    Error("windows_half", "windows of half the side", None, trained=(), models=(NET,)),
    Error("windows_quarter", "windows of a quarter of the side", None, trained=(), models=(NET,)),
    Error("windows_double", "windows of twice the side", None, trained=(), models=(NET,)),
    Error("leaked", "other dates of the test places in training", wrong.leaked, wrong.not_leaked,
          trained=(FOREST, NET), evaluated=False),
)  # fmt: skip
WINDOWS = {"windows_half": 0.5, "windows_quarter": 0.25, "windows_double": 2}
PLACES = {"evaluation": "in the evaluation alone", "training": "in training alone", "both": "in both"}


@dataclass(frozen=True)
class Setting:
    """How much is measured.

    Attributes:
        seeds: Of the models.
        options: Of ``prepare.py``.
        train: Options of ``train.py`` by model.
        unseen: Most places of the unseen region.
        draws: Of the bootstrap.
    """

    seeds: Sequence[int]
    options: Sequence[str]
    train: dict[str, Sequence[str]]
    unseen: int
    draws: int


FULL = Setting(
    seeds=(0, 1, 2),
    options=(),
    # A tenth of the default forest's size: there are thirty of them to train and six hundred sets to score.
    train={NET: ["experiment=demo"], FOREST: ["model=rf_spectral", "model.forest.n_estimators=20",
                                              "model.sampling.per_class=5000"]},
    unseen=40,
    draws=2000,
)  # fmt: skip
FAST = Setting(
    seeds=(0,),
    options=("prepare_as=tiny",),
    train={NET: ["experiment=demo", "epochs=1", "trainer=cpu"], FOREST: [
        "model=rf_spectral", "model.forest.n_estimators=3", "model.sampling.per_class=200"]},
    unseen=10,
    draws=100,
)  # fmt: skip


class NotYetMeasured(InputError):
    """What would have to be made, trained or scored first."""


class Study:
    """The folders of one run of this script, and what was found in them; ``so_far`` makes nothing that is not there."""

    def __init__(self, data: Path, work: Path, setting: Setting, nets: Path | None, *, so_far: bool = False):
        self.data, self.work, self.setting, self.nets, self.so_far = data, work, setting, nets, so_far
        self.opened: dict[Path, Run] = {}
        self.sources = {name: Source(data, name, setting.options) for name in SPLIT}

    def prepare(self):
        for name in self.sources:
            ensure(self.data / name, *self.setting.options)

    @cached_property
    def patch_size(self):
        return self.sources["embedded"].dataset.spec.patch_size

    def change_of(self, error: Error):
        """The change and the window size it leaves."""
        if error.name not in WINDOWS:
            return error.change, None
        size = int(WINDOWS[error.name] * self.patch_size)
        return (wrong.larger_windows if size > self.patch_size else wrong.smaller_windows)(size), size

    def dataset(self, error: Error | None, name: str, *, right=False, training=False) -> Path:
        """The folder of a dataset: as it is, wrong, or right and like the wrong one in what it covers."""
        source = self.sources[name]
        if error is None or (right and error.right is None):
            return source.dataset.root
        change, size = (error.right, None) if right else self.change_of(error)
        parts = ("train", "val", "test") if training and not right else ("test",)
        patches = source.patches(parts)
        if name == "embedded_unseen":
            kept = set(sorted({place(one) for one in source.dataset.manifest["id"].to_pylist()})[:: self.step])
            patches = (patch for patch in patches if patch.place in kept)
        kind = "right" if right else "trained" if training else "wrong"
        root = self.work / "data" / f"{error.name}_{kind}" / name
        self._made(root / "manifest.parquet")
        return wrong.write(source, root, change(source, patches), size)

    def _made(self, path: Path):
        if self.so_far and not path.is_file():
            raise NotYetMeasured("not measured yet", str(path), "run without --so-far")

    @cached_property
    def step(self):
        """Every so many places of the unseen region are taken."""
        ids = self.sources["embedded_unseen"].dataset.manifest["id"].to_pylist()
        return max(1, len({place(one) for one in ids}) // self.setting.unseen)

    def runs(self, model: str, error: Error | None = None) -> dict[int, Path]:
        """The models of each seed, trained on right data or on an error's; trained where they are not there."""
        if error is None and model == NET and self.nets is not None:
            return self._by_seed(self.nets)
        folder = self.work / "runs" / f"{error.name if error else 'right'}_{model}"
        known = self._by_seed(folder)
        if set(known) >= set(self.setting.seeds):
            return known
        self._made(folder / "all of its seeds")
        root = self.dataset(error, "embedded", training=True)
        places = {"dataset.root": root, "paths.root": self.work, "paths.runs": folder.parent, "hydra.sweep.dir": folder}
        command = [
            *(
                sys.executable,
                str(REPO / "train.py"),
                "-m",
                *self.setting.train[model],
                "dataset=folder",
                "resume=auto",
            ),
            *(f"{key}={path.resolve()}" for key, path in places.items()),
            f"seed={','.join(map(str, self.setting.seeds))}",
        ]
        folder.parent.mkdir(parents=True, exist_ok=True)
        log = folder.with_suffix(".log")
        with log.open("w") as file:
            done = subprocess.run(command, check=False, stdout=file, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            raise InputError(f"training {folder.name} failed", done.returncode, f"see {log}")
        return self._by_seed(folder)

    def _by_seed(self, folder: Path) -> dict[int, Path]:
        found = {open_run(path).seed: path for path in finished(folder) if (path / "spec.json").is_file()}
        return {seed: found[seed] for seed in self.setting.seeds if seed in found}

    def scored(self, run: Path, root: Path, name: str) -> dict[str, np.ndarray]:
        """The confusion matrix of each place of a dataset's test part; stored, and found again."""
        path = self.work / "scored" / f"{run.parent.name}_{run.name}" / root.parent.name / f"{root.name}.json"
        self._made(path)
        if not path.is_file():
            storage.write_json(path, {key: one.tolist() for key, one in self._score(run, root, name).items()})
        return {key: np.array(one, dtype=np.int64) for key, one in storage.read_json(path).items()}

    def _score(self, run: Path, root: Path, name: str):
        dataset = open_dataset(root)
        opened = self.opened.setdefault(run, open_run(run))
        classes = len(opened.spec.taxonomy)
        opened.spec.check_fits(dataset.spec)
        ids = dataset.manifest["id"].to_pylist()
        rows = [int(row) for row in dataset.parts(SPLIT[name])["test"]]
        if name == "embedded_unseen" and root == self.data / name:
            kept = set(sorted({place(one) for one in ids})[:: self.step])
            rows = [row for row in rows if place(ids[row]) in kept]
        found: dict[str, np.ndarray] = {}
        batch = max(1, 8 * self.patch_size**2 // dataset.spec.patch_size**2)
        for start in range(0, len(rows), batch):
            some = rows[start : start + batch]
            images = np.stack([dataset.image(row) for row in some])
            truth = np.stack([dataset.mask(row) for row in some])
            labels = opened.predictor.labels(images)
            truth[(images == NODATA).any(axis=1)] = IGNORE
            for row, true, guess in zip(some, truth, labels, strict=True):
                here = found.setdefault(place(ids[row]), np.zeros((classes, classes), np.int64))
                here += confusion_matrix(true, guess, classes)
        return found

    def measure(self, error: Error, model: str, where: str, name: str):
        """Confusion matrices by place, one mapping a seed: on the right side and on the wrong one."""
        right_set = self.dataset(error, name, right=True)
        wrong_set = right_set if where == "training" else self.dataset(error, name)
        good = self.runs(model)
        bad = good if where == "evaluation" else self.runs(model, error)
        sides = (
            [self.scored(good[seed], right_set, name) for seed in self.setting.seeds],
            [self.scored(bad[seed], wrong_set, name) for seed in self.setting.seeds],
        )
        everywhere = {key for side in sides for one in side for key in one}
        nothing = np.zeros_like(next(iter(sides[0][0].values())))  # a place that the error left no patch of
        return tuple([{key: one.get(key, nothing) for key in everywhere} for one in side] for side in sides)

    def cost(self, error: Error, model: str, where: str, name: str):
        """The cost as plain data."""
        good, bad = self.measure(error, model, where, name)
        if where == "evaluation":  # the same fitted models on both sides: their matrices are added up
            good, bad = ([{key: sum(one[key] for one in side) for key in side[0]}] for side in (good, bad))
        values = [np.mean([scores(sum(one.values()))[SCORE] for one in side]) for side in (good, bad)]
        row = {"error": error.name, "model": model, "where": where, "set": name, "places": len(good[0]),
               "right": float(values[0]), "wrong": float(values[1]), "cost": float(values[0] - values[1])}  # fmt: skip
        try:
            found = compare(good, bad, SCORE, draws=self.setting.draws)
        except InputError:  # too few places
            return {**row, "low": None, "high": None, "p": None}
        return {**row, "low": found.low, "high": found.high, "p": found.p, "label": found.label}


def tasks(errors: Sequence[Error]):
    """All that is measured, the cheap first: error, model, where, set."""
    alone = [(error, model, "evaluation") for error in errors for model in error.models if error.evaluated]
    yield from ((*one, "embedded") for one in alone)
    for model in (FOREST, NET):
        # Leaked test places first. There is no wrong evaluation without the training: the error lies between the two.
        for error in sorted((one for one in errors if model in one.trained), key=lambda one: one.evaluated):
            yield from ((error, model, where, "embedded") for where in ("training", "both")[not error.evaluated :])
        if model == FOREST:
            yield from ((*one, "embedded_unseen") for one in alone)


def measure_all(study: Study, errors: Sequence[Error]):
    """Every cost, with p-values corrected for their number; ``costs.json`` holds what is known so far."""
    if not study.so_far:
        study.prepare()
    rows = []
    for error, model, where, name in track(list(tasks(errors)), "measuring"):
        try:
            row = study.cost(error, model, where, name)
        except NotYetMeasured:
            continue
        rows.append(row)
        known = {str(i): row["p"] for i, row in enumerate(rows) if row["p"] is not None}
        for i, p in holm(known).items():
            rows[int(i)]["holm"] = p
        if not study.so_far:
            storage.write_json(study.work / "costs.json", rows)
            say(f"{error.name}, {model}, {PLACES[where]}, {name}: {cell(row)}")
    if study.so_far:
        tell_missing(study, rows)
    return rows


def tell_missing(study: Study, rows):
    """Say so where something was measured whose matrices are not found, and where nothing was."""
    path = study.work / "costs.json"
    there = {(row["error"], row["model"], row["where"], row["set"]) for row in rows}
    before = storage.read_json(path) if path.is_file() else []
    lost = [row for row in before if (row["error"], row["model"], row["where"], row["set"]) not in there]
    if lost:
        warn(f"{len(lost)} costs of {path} are left out, their models are not found: give the same --data and --nets")
    if not rows:
        raise NotYetMeasured("nothing was measured yet", str(study.work), "run without --so-far, or give --work")


def cell(row) -> str:
    """Cost in points, with its interval; a star where it is told from none."""
    cost = f"{100 * row['cost']:z.1f}"
    if row["low"] is None:
        return f"{cost} (too few places)"
    star = "*" if row.get("holm", row["p"]) < 0.05 else ""
    return f"{cost} [{100 * row['low']:z.1f}, {100 * row['high']:z.1f}]{star}"


def tables(rows, errors):
    """Title, columns and rows of each table."""
    for name, title in (("embedded", "Held-out places of the training regions"), ("embedded_unseen", "Unseen region")):
        mine = [row for row in rows if row["set"] == name]
        if not mine:
            continue
        columns = list(dict.fromkeys((row["model"], row["where"]) for row in mine))
        columns.sort(key=lambda one: (list(PLACES).index(one[1]), one[0] != NET))
        cells = {(row["error"], row["model"], row["where"]): cell(row) for row in mine}
        places = sorted({row["places"] for row in mine})
        plain = ("offset_forgotten", "evaluation")  # compared with the data as they are
        base = {row["model"]: row["right"] for row in mine if (row["error"], row["where"]) == plain}
        right = ", ".join(f"{'U-Net' if model == NET else 'forest'} {100 * value:.1f}" for model, value in base.items())
        head = ["error", *(f"{'U-Net' if model == NET else 'forest'}, {PLACES[where]}" for model, where in columns)]
        body = [[error.title, *(cells.get((error.name, *column), "") for column in columns)] for error in errors]
        counted = f"{places[0]} to {places[-1]}" if len(places) > 1 else f"{places[0]}"
        yield f"{title}: {counted} places; {SCORE} on right data {right}", head, [row for row in body if any(row[1:])]


def markdown(rows, errors) -> str:
    """The tables as Markdown."""
    parts = []
    for title, head, body in tables(rows, errors):
        lines = [f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *body]]
        parts.append("\n".join([f"**{title}.**", "", *lines]))
    return "\n\n".join(parts)


def main(arguments=None, errors=ERRORS):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("outputs/data"), help="prepared datasets; made where missing")
    parser.add_argument("--work", type=Path, default=Path("outputs/what_breaks"), help="wrong data, runs and scores")
    parser.add_argument("--nets", type=Path, help="runs of experiment=demo to take instead of training them")
    parser.add_argument("--fast", action="store_true", help="tiny data, one seed: tries the script, measures nothing")
    parser.add_argument("--so-far", action="store_true", help="show what was scored until now, make and train nothing")
    parser.add_argument("--write", type=Path, help="put the tables between the marks of this Markdown page")
    chosen = parser.parse_args(arguments)
    page = chosen.write.read_text(encoding="utf-8") if chosen.write is not None else None  # no hour is lost to a typo
    study = Study(chosen.data, chosen.work, FAST if chosen.fast else FULL, chosen.nets, so_far=chosen.so_far)
    rows = measure_all(study, errors)
    for title, head, body in tables(rows, errors):
        table(title, head, body)
    say("Cost in points of mIoU [95 % interval]; negative: the error makes the score look better; *: told from none.")
    say("Simulated: measures what the errors do, not how well crops can be mapped.")
    storage.write_bytes(study.work / "what-breaks.md", markdown(rows, errors).encode())
    if page is not None:
        before, _, rest = page.partition(MARKS[0])
        _, _, after = rest.partition(MARKS[1])
        content = f"{before}{MARKS[0]}\n\n{markdown(rows, errors)}\n\n{MARKS[1]}{after}"
        storage.write_bytes(chosen.write, content.encode())


if __name__ == "__main__":
    with one_line_errors():
        main()
