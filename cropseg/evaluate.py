"""Scoring a model on evaluation sets: what is stored is the confusion matrix, from which every score is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from cropseg import evidence
from cropseg.calibration import Validated, read_validated, write_validated
from cropseg.core.errors import ConfigError, InputError, MismatchError
from cropseg.core.manifest import PARTS, Dataset, open_dataset
from cropseg.core.progress import say, table, warn
from cropseg.details import Details
from cropseg.devices import check_devices, shared
from cropseg.ground import Rows, Sharing, refuse_trained, sharing, training_parts
from cropseg.intervals import LEAST_SEEDS
from cropseg.overlaps import RULE
from cropseg.predictor import ModelSpec, Predictor, classify
from cropseg.runs import Run, label, seed_groups
from cropseg.scores import MEANS, PROTOCOLS, SIMULATED_NOTE, Evaluation, Protocol, Scope, format_score
from cropseg.seeds import SEED_COLUMNS, seed_rows, sets_of
from cropseg.streaming import run_through
from cropseg.tally import NO_CONFIDENCE, PARCEL_YEAR, PLACE
from cropseg.tta import augmented, check_tta

TAKEN = (".detail", ".patches", ".clusters", ".reliability")
"""Ends of a set's name that would give its file the name of another set's details."""

LEAKAGE_UNKNOWN = "leakage cannot be told, for the training data is not known here"
"""Stored in the note where a model's training data is gone, was prepared again, or was never told."""


@dataclass(frozen=True)
class EvaluationSet:
    """Patches to score a model on, as a YAML of ``conf/evaluation`` names them.

    Attributes:
        name: Name under which the result is stored.
        root: Dataset folder; None stands for the dataset that the run was trained on.
        split: Split of the dataset; None stands for the run's own.
        part: Part of that split.
        protocol: ``all`` where unlabelled ground is background, ``crop`` where only labelled crop pixels are known.
        note: What a reader of the score must know.
        made_by: The command that makes the dataset, told where it is missing.
        clusters: What intervals are drawn over: ``place``, all dates and overlapping windows of a place together; or
            ``parcel_year``, for a set of few places with many parcels.
        beside: Sets to score with it where they are there, such as the refused radiometric choice: name of the folder
            beside ``root``, and note. All else is as here.
    """

    name: str
    root: str | None
    split: str | None
    part: str = "test"
    protocol: Protocol = "all"
    note: str = ""
    made_by: str = ""
    clusters: Literal["place", "parcel_year"] = "place"
    beside: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the values that are one of a few, and those that must be words."""
        words = {"name": self.name, "root": self.root, "split": self.split, "note": self.note, "made_by": self.made_by}
        for what, value in words.items():
            if not isinstance(value, str) and (what not in ("root", "split") or value is not None):
                raise ConfigError(f"{what} of an evaluation set must be a word", value, 'quote it: "..."')
        if self.part not in PARTS:
            raise ConfigError(f"part of evaluation set {self.name}", self.part, f"choose from {', '.join(PARTS)}")
        if self.protocol not in get_args(Protocol):
            raise ConfigError(f"protocol of evaluation set {self.name}", self.protocol, "choose all or crop")
        if self.clusters not in ("place", "parcel_year"):
            raise ConfigError(f"clusters of evaluation set {self.name}", self.clusters, "choose place or parcel_year")
        unfit = any(character in self.name for character in "/\\+") or self.name.startswith(".")
        if not self.name or unfit or self.name.endswith(TAKEN):
            raise ConfigError("name of an evaluation set must do for a file", self.name, "use letters, digits, _ and -")

    def of(self, run: Run) -> EvaluationSet:
        """The set with ``None`` replaced by what ``run`` was trained on.

        Raises:
            ConfigError: The run's config does not tell where its dataset lies.
        """
        root = self.root
        if root is None:
            if run.dataset_root is None:
                remedy = f"give evaluation.{self.name}.root=<folder>"
                raise ConfigError(f"run {run.path} does not tell where its dataset lies", None, remedy)
            root = str(run.dataset_root)
        return replace(self, root=root, split=self.split or run.spec.split)


def with_beside(sets: Sequence[EvaluationSet]) -> list[EvaluationSet]:
    """``sets``, each followed by what belongs beside it; what of that is not there is told with the command."""
    named = {one.name for one in sets}
    found: list[EvaluationSet] = []
    for one in sets:
        found.append(one)
        if one.root is None or not (Path(one.root) / "manifest.parquet").is_file():
            continue  # told when it is opened
        missing = []
        for name in (name for name in one.beside if name not in named):
            root = Path(one.root).parent / name
            if (root / "manifest.parquet").is_file():
                found.append(replace(one, name=name, root=str(root), note=one.beside[name], beside={}))
            else:
                missing.append(name)
        if missing:
            say(f"not there to score beside {one.name}: {', '.join(missing)}; make it: {one.made_by}")
    return found


def evaluate(
    predictor: Predictor, evaluation_set: EvaluationSet, batch_size: int = 8, tta: str | None = None
) -> Evaluation:
    """Score a model on one set; what :func:`examine` gives, without the details."""
    return examine(predictor, evaluation_set, batch_size, tta)[0]


def examine(
    predictor: Predictor, evaluation_set: EvaluationSet, batch_size: int = 8, tta: str | None = None
) -> tuple[Evaluation, Details]:
    """Score a model on one set, and keep what finer questions need.

    A few batches of patches are in memory at a time (:mod:`cropseg.streaming`), which does not grow with their number
    but for some kilobytes each. Pixels whose truth is 255 are left out, and so
    are labelled pixels where any band of the image has no data: a map has no class there either. Both are counted.

    Args:
        predictor: The model.
        evaluation_set: The patches; ``root`` and ``split`` set.
        batch_size: Patches at a time; scores do not depend on it.
        tta: Test-time augmentation: ``d4`` averages probabilities over the eight symmetries of a patch; None for none.

    Raises:
        ConfigError: The set does not name its dataset and split, its protocol contradicts the dataset, or it asks for
            clusters by parcel and the dataset knows none.
        InputError: The dataset is missing or has no patch in that part, or a patch is broken.
        MismatchError: The model does not take this dataset, or was trained on patches of it.
    """
    _check_batch_size(batch_size)
    predictor = augmented(predictor, tta)
    spec = predictor.spec
    dataset, rows, trained = _open(spec, evaluation_set)
    clusters_are = PARCEL_YEAR if evaluation_set.clusters == "parcel_year" else PLACE
    found = run_through(predictor, dataset, rows, batch_size, f"evaluating {evaluation_set.name}", clusters_are)
    shares = sharing(dataset, rows, trained)
    unknown = LEAKAGE_UNKNOWN if shares.ground is None else ""
    evaluation = Evaluation(
        set=evaluation_set.name,
        dataset=dataset.spec.name,
        root=str(dataset.root),
        split=str(evaluation_set.split),
        part=evaluation_set.part,
        manifest_digest=dataset.digest,
        simulated=dataset.spec.simulated,
        trained_on_simulated=spec.simulated,
        protocol=evaluation_set.protocol,
        patches=len(rows),
        patch_size=dataset.spec.patch_size,
        training_patch_size=spec.patch_size,
        classes=spec.taxonomy.names,
        confusion=found.details.confusion,
        without_label=found.without_label,
        without_data=found.without_data,
        note="; ".join(part for part in (evaluation_set.note, unknown) if part),
        tta=tta or "",
        shared_ground=shares.ground,
        sharing=shares.to_dict(),
    )
    return evaluation, found.details


def calibrate(run: Run, batch_size: int = 8, tta: str | None = None, devices: int | str = 1) -> str:
    """Compute a run's confidence on its own validation part, once for the same weights and data, and keep it.

    Args:
        run: The run.
        batch_size: Patches at a time.
        tta: Test-time augmentation.
        devices: As for :func:`cropseg.devices.shared`.

    Returns:
        Why there is none; empty where there is one.
    """
    path, spec, root = run.validation_file(tta or ""), run.spec, run.dataset_root
    weights = run.weights_digest
    kept = read_validated(path)
    if kept is not None and kept.is_of(spec.manifest_digest, spec.split, weights):
        return ""
    path.unlink(missing_ok=True)  # it is of other weights
    if root is None or not (root / "manifest.parquet").is_file():
        return "the validation data is gone, or it is not known where it lies"
    dataset = open_dataset(root)
    if dataset.digest != spec.manifest_digest or not (root / "splits" / f"{spec.split}.parquet").is_file():
        return "the training data was prepared again since"
    rows = [int(row) for row in dataset.parts(spec.split)["val"]]
    if not rows:
        return "the run has no validation part"
    predictor = augmented(shared(run.predictor, devices), tta)
    if classify(predictor, dataset.image(rows[0])[None])[1] is None:
        return NO_CONFIDENCE
    found = run_through(predictor, dataset, rows, batch_size, "confidence on the validation part")
    write_validated(path, Validated(spec.manifest_digest, spec.split, weights, found.details.reliability))
    say(f"{run.name}: confidence on the {len(rows)} patches of its validation part in {path}")
    return ""


def evaluate_runs(
    runs: Sequence[Run],
    sets: Sequence[EvaluationSet],
    batch_size: int = 8,
    tta: str | None = None,
    *,
    calibration: bool = True,
    devices: int | str = 1,
) -> list[Evaluation]:
    """Score each run on each set, store the results in the runs' folders and print a table.

    Every set is opened before the first is scored, so that a wrong path costs no waiting, and what it shares with the
    training part is told before any score is known. Runs that differ in their seed alone are shown together in a second
    table, with mean and range.

    Below stand what the scores are worth (:mod:`cropseg.evidence`).

    Args:
        runs: The runs.
        sets: The sets.
        batch_size: Patches at a time.
        tta: Test-time augmentation.
        calibration: Whether confidence is computed on each run's validation part too (:func:`calibrate`).
        devices: How many GPUs share each batch (:func:`cropseg.devices.shared`); scores do not depend on it.

    Raises:
        ConfigError: No set was chosen, two of them share a name, or an option has an impossible value.
    """
    if not sets:
        raise ConfigError("no evaluation set was chosen", None, "give evaluation=[internal,unseen]")
    _check_batch_size(batch_size)
    check_tta(tta)
    check_devices(devices)
    if not isinstance(calibration, bool):
        raise ConfigError("calibration", calibration, "choose true or false")
    if len({one.name for one in sets}) != len(sets):
        raise ConfigError("two evaluation sets share a name", [one.name for one in sets], "give each its own")
    wanted = with_beside(sets)
    chosen = [(run, one.of(run)) for run in runs for one in wanted]
    for run, one in chosen:
        try:
            shares = sharing(*_open(run.spec, one))
        except MismatchError as error:
            raise MismatchError(f"{run.name}: {error.what}", error.value, error.remedy) from error
        _say_sharing(run, one.name, shares)
    alone = {str(group[0].path) for group in seed_groups(runs) if len(group) == 1}
    results: list[tuple[Run, Evaluation]] = []
    found: dict[str, dict[str, Evaluation]] = {}
    for run in runs:
        unfitted = calibrate(run, batch_size, tta, devices) if calibration else "it was not asked for"
        predictor = shared(run.predictor, devices)
        for one in (chosen_set for of_run, chosen_set in chosen if of_run is run):
            result, beside = examine(predictor, one, batch_size, tta)
            same = result.manifest_digest == run.spec.manifest_digest and result.split == run.spec.split
            why = "these are the patches it would be fitted on" if same and one.part == "val" else unfitted
            if why and beside.reliability:
                beside = replace(beside, without={**beside.without, "recalibration": why})
            path = run.store(result, beside)
            say(f"{run.name} on {result.key}: {result.patches} patches, confusion matrix in {path}")
            results.append((run, result))
            found.setdefault(str(run.path), {})[result.key] = result
        del predictor
        run.release()
    scored = [replace(run, evaluations=found[str(run.path)]) for run in runs]
    keys = list(dict.fromkeys(one.key for _, one in results))
    names = sets_of(scored, keys)
    rows: list[Sequence[object]] = []
    for run, result in results:
        remark = "one seed" if str(run.path) in alone else ""
        rows += score_rows(label(run, runs), names[Scope.of(result)], result, remark)
    table("Scores", SCORE_COLUMNS, rows)
    if seeds := seed_rows(scored, keys, brief=True):
        table("Over seeds: mean (lowest … highest)", SEED_COLUMNS, seeds)
    for title, rule in MEANS.values():
        say(f"{title}: {rule}")
    _show_evidence(scored, keys)
    evaluations = [one for _, one in results]
    if any(one.simulated for one in evaluations):
        warn(SIMULATED_NOTE)
    return evaluations


def _show_evidence(runs: Sequence[Run], keys: Sequence[str]) -> None:
    """Print how far the scores can be trusted, and why a part of that is missing."""
    if once := evidence.once_rows(runs, keys):
        table(f"Windows overlap here: {RULE}", evidence.ONCE_COLUMNS, once)
    rows = evidence.interval_rows(runs, keys, brief=True)
    table("Scores [95 % interval over places like these]", evidence.BRIEF_COLUMNS, rows)
    say(
        f"from {LEAST_SEEDS} seeds on an interval holds the scatter of training too; below, it is of these models alone"
    )
    compared, reasons = evidence.comparison_rows(runs, keys)
    if compared:
        table(f"Models compared on the same places: {MEANS['miou_present'][0]}", evidence.COMPARISON_COLUMNS, compared)
    sure: list[Sequence[str]] = []
    for on, title in sets_of(runs, keys).items():
        found, missing = evidence.confidence_rows(evidence.scored(runs, on))
        sure += [(title, PROTOCOLS[on.protocol], *row) for row in found]
        reasons += [f"confidence on {title}: {reason}" for reason in missing]
    if sure:
        columns = ("evaluation set", "protocol", *evidence.CONFIDENCE_COLUMNS)
        table("Confidence: expected calibration error (ECE) and accuracy where the model is sure", columns, sure)
    for reason in reasons:
        say(reason)


SCORE_COLUMNS = ("model", "set", "protocol", "patches", *(title for title, _ in MEANS.values()), "note")
"""Columns of :func:`score_rows`."""


def score_rows(model: str, on: str, evaluation: Evaluation, remark: str) -> Iterator[Sequence[object]]:
    """One row a protocol; that which the set is meant for first. ``on`` is the set's name, ``remark`` for the note."""
    for protocol in sorted(PROTOCOLS, key=lambda name: name != evaluation.protocol):
        scores = evaluation.scores(protocol)
        means = (format_score(scores[key]) for key in MEANS)
        note = "; ".join([*evaluation.caveats, *([remark] if remark else [])])
        yield (model, on, protocol, evaluation.patches, *means, note)


def _check_batch_size(batch_size: object) -> None:
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ConfigError("batch_size must be a whole number of at least 1", batch_size, "give batch_size=8")


def _say_sharing(run: Run, name: str, shares: Sharing) -> None:
    """Tell what a set shares with what the model was trained on."""
    if shares.ground is None:
        say(
            f"{run.name} on {name}: its training data is gone, was prepared again or was never told, "
            "so leakage cannot be told: it may have been trained on the same ground"
        )
    elif shares.ground > 0:
        why = "other dates, other parcels or overlapping windows of it: their score is optimistic"
        warn(f"{run.name} on {name}: {shares.words} ({why})")
    else:
        say(f"{run.name} on {name}: {shares.words}")


def _open(spec: ModelSpec, chosen: EvaluationSet) -> tuple[Dataset, list[int], list[Rows | None]]:
    """Open a set's dataset and give its rows, once the model may be scored on them; and what it learned from."""
    if chosen.root is None or not chosen.split:
        raise ConfigError(f"evaluation set {chosen.name} lacks root or split", None, "set both, or evaluate a run")
    if not (Path(chosen.root) / "manifest.parquet").is_file():
        remedy = f"make it: {chosen.made_by}" if chosen.made_by else f"set evaluation.{chosen.name}.root=<folder>"
        raise InputError(f"evaluation set {chosen.name}: no dataset at {chosen.root}", None, remedy)
    dataset = open_dataset(chosen.root)
    spec.check_fits(dataset.spec)
    if dataset.spec.protocol == "crop" and chosen.protocol == "all":
        remedy = f"set evaluation.{chosen.name}.protocol=crop"
        raise ConfigError(f"dataset {dataset.spec.name} knows labelled crop pixels only", chosen.protocol, remedy)
    rows = dataset.parts(chosen.split)[chosen.part]  # type: ignore[index]
    if not len(rows):
        raise InputError(
            f"part {chosen.part} of split {chosen.split} of {dataset.root} has no patch", None, "choose another part"
        )
    taken = [int(row) for row in rows]
    if chosen.clusters == "parcel_year" and dataset.manifest["parcels"].take(rows).null_count == len(rows):
        remedy = f"set evaluation.{chosen.name}.clusters=place"
        raise ConfigError(f"dataset {dataset.spec.name} knows no parcels to draw intervals over", None, remedy)
    parts = training_parts(spec, dataset)
    for part in parts:
        if part is not None:
            refuse_trained(chosen.name, dataset, taken, *part)
    if parts[0] is None and dataset.spec.name == spec.dataset and chosen.split == spec.split:
        warn(
            f"dataset {dataset.root} was prepared again since the model was trained: "
            "whether its test part was trained on cannot be told"
        )
    if None in parts[1:]:
        warn(f"whether {chosen.name} was trained on by a run that this one started from cannot be told")
    return dataset, taken, parts
