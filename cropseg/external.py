"""Models that no run of ours holds: an exported ONNX file, or any object that predicts, asked like a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from cropseg.core import storage, taxonomy
from cropseg.core.errors import ConfigError, InputError, MismatchError
from cropseg.core.scene import UInt8Array, UInt16Array
from cropseg.core.taxonomy import CropClass, Taxonomy
from cropseg.predictor import ModelSpec, Predictor, most_probable
from cropseg.runs import Run, open_runs, stored

LOADER: Final = "cropseg.external.load"
NEEDED: Final = ("bands", "classes", "resolution", "training_window")
"""What the metadata of an ONNX file must tell; docs/export.md says how each is written."""

Output = Literal["logits", "probabilities"]
Floats = npt.NDArray[np.float32]


class OnnxPredictor:
    """A :class:`cropseg.predictor.Predictor` over an ONNX file, asked through ONNX Runtime on the CPU.

    The file takes float32 (batch, bands, height, width) and gives float32 (batch, classes, height, width). One of ours
    tells its bands and classes; for another's, give them.

    Args:
        path: The file.
        bands: Channel order; None for what the file tells, as for the following.
        taxonomy: Classes of the output in their order: name of a shipped taxonomy or path of a YAML file.
        resolution: Pixel size in metres that it was trained at.
        window: Window in pixels that it was trained on.
        divisor: Number that our values (reflectance × 10000) are divided by before the file sees them: 1 where it does
            so itself, as ours do.
        output: ``logits`` or ``probabilities``: what the file gives.

    Raises:
        InputError: The file is missing, no ONNX model, or does not tell what it takes.
        MismatchError: What it tells and what it takes differ.
    """

    validation_score = math.nan

    def __init__(
        self,
        path: str | Path,
        *,
        bands: Sequence[str] | None = None,
        taxonomy: str | None = None,
        resolution: float | None = None,
        window: int | None = None,
        divisor: float = 1.0,
        output: Output = "logits",
    ) -> None:
        self.path = Path(path)
        self._divisor, self._output = divisor, output
        self._session, self._refusals = _session(self.path)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or len(outputs[0].shape) != 4:
            shapes = [one.shape for one in (*inputs, outputs[0])]
            raise MismatchError(f"{self.path} does not map one image to one image", shapes, "see docs/export.md")
        self._input, self._answer = inputs[0].name, outputs[0].name
        given = {"bands": bands, "classes": taxonomy, "resolution": resolution, "training_window": window}
        self.spec = _spec(self.path, self._session.get_modelmeta().custom_metadata_map, given)
        self._batch, channels, *self._size = (one if isinstance(one, int) else None for one in inputs[0].shape)
        told = {"bands": len(self.spec.bands), "classes": len(self.spec.taxonomy)}
        for what, found in (("bands", channels), ("classes", outputs[0].shape[1])):
            if isinstance(found, int) and found != told[what]:
                remedy = "give those that it was trained with"
                raise MismatchError(f"{self.path} has {found} {what}, and is said to have", told[what], remedy)

    def probabilities(self, images: UInt16Array) -> Floats:
        """Class probabilities, float32 (n, classes, height, width).

        Raises:
            MismatchError: The file takes windows of another size, or gives something else than it should.
        """
        if any(own not in (None, side) for own, side in zip(self._size, images.shape[2:], strict=True)):
            remedy = "score it on patches of that size, or export it with open axes"
            raise MismatchError(f"{self.path} takes windows of {self._size} pixels, not", images.shape[2:], remedy)
        step = self._batch or len(images)
        answers = [self._ask(images[start : start + step]) for start in range(0, len(images), step)]
        found = np.concatenate(answers)
        if self._output == "probabilities":
            return found
        found = np.exp(found - found.max(axis=1, keepdims=True))
        shares: Floats = found / found.sum(axis=1, keepdims=True)
        return shares

    def labels(self, images: UInt16Array) -> UInt8Array:
        """The most probable class of each pixel, uint8 (n, height, width)."""
        return self.classify(images)[0]

    def classify(self, images: UInt16Array) -> tuple[UInt8Array, Floats]:
        """What :meth:`labels` gives, and its probability, float32 (n, height, width)."""
        return most_probable(self.probabilities(images))

    def save(self, folder: Path) -> None:
        """Copy the file into ``folder``."""
        storage.write_bytes(folder / self.path.name, self.path.read_bytes())

    def _ask(self, images: UInt16Array) -> Floats:
        batch = images.astype(np.float32) / np.float32(self._divisor)
        missing = (self._batch or len(batch)) - len(batch)  # a file of fixed batch size wants a whole one
        batch = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)))
        try:
            answer: Floats = self._session.run([self._answer], {self._input: batch})[0]
        except self._refusals as error:
            raise MismatchError(f"{self.path} does not take windows like", batch.shape, str(error)) from error
        wanted = (len(batch), len(self.spec.taxonomy), *batch.shape[2:])
        if answer.shape != wanted:
            raise MismatchError(f"{self.path} gives another shape than {wanted}", answer.shape, "see docs/export.md")
        if not np.isfinite(answer).all():
            raise MismatchError(f"{self.path} gives values that are no numbers", None, "check what it was fed with")
        return answer[: len(images)]


class Checked:
    """A :class:`cropseg.predictor.Predictor` that somebody else wrote, whose answers are looked at.

    Args:
        predictor: The object.
        name: What errors call it.

    Raises:
        ConfigError: It lacks something that a predictor has.
    """

    def __init__(self, predictor: Any, name: str) -> None:
        lacking = [one for one in ("spec", "probabilities", "labels") if not hasattr(predictor, one)]
        if lacking:
            raise ConfigError(f"{name} is no predictor, for it lacks", lacking, "see cropseg.predictor.Predictor")
        if not isinstance(predictor.spec, ModelSpec):
            raise ConfigError(f"spec of {name} must be a ModelSpec, not", type(predictor.spec).__name__, "docs/maps.md")
        self._predictor, self._name = predictor, name

    @property
    def spec(self) -> ModelSpec:
        """What it says it learned from."""
        found: ModelSpec = self._predictor.spec
        return found

    @property
    def validation_score(self) -> float:
        """Its own, or NaN."""
        return float(getattr(self._predictor, "validation_score", math.nan))

    def probabilities(self, images: UInt16Array) -> Floats:
        """Its probabilities, float32 (n, classes, height, width).

        Raises:
            MismatchError: They have another shape, or are no numbers.
        """
        found: Floats = np.asarray(self._predictor.probabilities(images), dtype=np.float32)
        wanted = (len(images), len(self.spec.taxonomy), *images.shape[2:])
        if found.shape != wanted:
            raise MismatchError(f"{self._name} gives probabilities of another shape than {wanted}", found.shape)
        if not np.isfinite(found).all():
            raise MismatchError(f"{self._name} gives probabilities that are no numbers")
        return found

    def labels(self, images: UInt16Array) -> UInt8Array:
        """Its labels, uint8 (n, height, width).

        Raises:
            MismatchError: They have another shape, are no whole numbers, or are no classes.
        """
        return self._checked(np.asarray(self._predictor.labels(images)), images)

    def classify(self, images: UInt16Array) -> tuple[UInt8Array, Floats | None]:
        """Its labels and confidence in one pass; without a ``classify`` of its own, its labels alone.

        Raises:
            MismatchError: As for :meth:`labels`; or the confidence has another shape, or is no probability.
        """
        if not hasattr(self._predictor, "classify"):
            return self.labels(images), None
        answer, confidence = self._predictor.classify(images)
        labels = self._checked(np.asarray(answer), images)
        if confidence is None:
            return labels, None
        sure: Floats = np.asarray(confidence, dtype=np.float32)
        if sure.shape != labels.shape or not ((sure >= 0) & (sure <= 1)).all():
            remedy = "give the probability of each label, 0 … 1"
            raise MismatchError(f"{self._name} gives a confidence that is none", sure.shape, remedy)
        return labels, sure

    def _checked(self, found: npt.NDArray[Any], images: UInt16Array) -> UInt8Array:
        wanted, classes = (len(images), *images.shape[2:]), len(self.spec.taxonomy)
        if found.shape != wanted or not np.issubdtype(found.dtype, np.integer):
            got = (found.shape, str(found.dtype))
            raise MismatchError(f"{self._name} gives other labels than whole numbers of shape {wanted}", got)
        if found.size and not 0 <= found.min() <= found.max() < classes:
            raise MismatchError(f"{self._name} gives labels outside 0 … {classes - 1}", (found.min(), found.max()))
        return found.astype(np.uint8)

    def save(self, folder: Path) -> None:
        """Leave it where it is: it is not ours to store."""
        raise ConfigError(f"{self._name} is scored, not stored", str(folder), "keep its own files")


@dataclass(frozen=True)
class GivenRun(Run):
    """A model that was handed over ready to predict; its ``path`` is a name more than a folder."""

    given: Checked | None = None

    @property
    def name(self) -> str:
        """Name of its class."""
        return self.path.name

    @cached_property
    def predictor(self) -> Predictor:
        """The model."""
        if self.given is None:
            raise ConfigError("no model was handed over", str(self.path))
        return self.given


def open_models(run: Any, folder: str | Path, out: str | Path | None = None) -> list[Run]:
    """Open what ``evaluate.py run=`` names: what :func:`cropseg.runs.open_runs` takes, ONNX files, and configs.

    Args:
        run: Value of the option: a path, ``latest``, a mapping with ``_target_``, or a list of these.
        folder: Where runs lie.
        out: Folder of the results; None stands for the usual one. Only for a single model.

    Raises:
        ConfigError: Several models and one ``out``, a config without ``out``, or no predictor.
        InputError: A file cannot be read.
    """
    listed = list(run) if isinstance(run, list | tuple) or OmegaConf.is_list(run) else [run]
    if not listed:
        raise ConfigError("run names nothing", listed, "give run=latest or run=<folder that train.py named>")
    found: list[Run] = []
    for one in listed:
        if isinstance(one, Mapping | DictConfig):
            found.append(_open_target(one, out))
        elif str(one).lower().endswith(".onnx"):
            found.append(open_onnx(Path(str(one))))
        else:
            found += open_runs(one, folder)
    if out is None:
        return found
    if len(found) > 1:
        raise ConfigError("out= holds the results of one model", [one.name for one in found], "leave out= away")
    return [replace(found[0], results_in=Path(out), evaluations=stored(Path(out)))]


def open_onnx(path: Path) -> Run:
    """An ONNX file as a run; its results lie beside it in ``<stem>.evaluation``."""
    spec = OnnxPredictor(path).spec
    results = path.with_name(f"{path.stem}.evaluation")
    return Run(path, spec, OmegaConf.create(), results_in=results, evaluations=stored(results))


def load(path: Path, spec: ModelSpec) -> Predictor:
    """The loader of ONNX files that tell what they take; ``spec`` is theirs."""
    return OnnxPredictor(path)


def _open_target(config: Any, out: str | Path | None) -> Run:
    name = str(config.get("_target_", ""))
    if not name:
        raise ConfigError("a model given as a config needs _target_", dict(config), "run={_target_: my.module.Model}")
    if out is None:
        raise ConfigError(f"{name} has no folder of its own", None, "say where its results go: out=<folder>")
    model = Checked(instantiate(config), name)
    return GivenRun(Path(name.rpartition(".")[2]), model.spec, OmegaConf.create(), given=model)


def _session(path: Path) -> tuple[Any, tuple[type[BaseException], ...]]:
    """The open file, and the errors by which ONNX Runtime refuses an input: they have no common root but Exception."""
    try:
        import onnxruntime
    except ImportError as error:
        remedy = 'pip install "cropseg[export]"'
        raise ConfigError("ONNX files need onnxruntime, which is not installed", None, remedy) from error
    if not path.is_file():
        raise InputError(f"no such file: {path}", None, "give what export.py wrote: <run>/export/model.onnx")
    state = onnxruntime.capi.onnxruntime_pybind11_state
    refusals = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented, state.RuntimeException)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]), refusals
    except (*refusals, state.InvalidProtobuf, state.NoSuchFile) as error:
        raise InputError(f"{path} is no ONNX model", " ".join(str(error).split())[:160], "export it again") from error


def _spec(path: Path, told: Mapping[str, str], given: Mapping[str, Any]) -> ModelSpec:
    """What is known of an ONNX file: what was given, else what it tells."""
    missing = [key for key in NEEDED if given[key] is None and key not in told]
    if missing:
        options = {"training_window": "window", "classes": "taxonomy"}
        keys = ", ".join(f"{options.get(key, key)}: …" for key in missing)
        remedy = f"say it: run={{_target_: cropseg.external.OnnxPredictor, path: {path.name}, {keys}}} out=<folder>"
        raise InputError(f"{path} does not tell", missing, remedy)
    try:
        found = {key: given[key] if given[key] is not None else json.loads(told[key]) for key in NEEDED}
        classes = taxonomy.load(given["classes"]) if given["classes"] else _classes(told, found["classes"])
        return ModelSpec(
            loader=LOADER,
            model={"onnx": path.name},
            bands=tuple(str(band) for band in found["bands"]),
            taxonomy=classes,
            resolution=float(found["resolution"]),
            patch_size=int(found["training_window"]),
            simulated=json.loads(told.get("simulated", "false")),
            dataset=told.get("dataset", ""),
            manifest_digest=told.get("manifest_digest", ""),
            split=told.get("split", ""),
            versions=json.loads(told.get("versions", "{}")),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"the metadata of {path} cannot be read", str(error), "export it again") from error


def _classes(told: Mapping[str, str], names: Sequence[str]) -> Taxonomy:
    colors = json.loads(told["colors"]) if "colors" in told else ["808080"] * len(names)
    listed = tuple(CropClass(i, str(name), str(colors[i])) for i, name in enumerate(names))
    return Taxonomy(told.get("taxonomy", "of the file"), listed)
