"""Tables 5 and 6 in the paper's form: how the models were trained, and on what."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from omegaconf import OmegaConf

from cropseg.core import storage
from cropseg.core.errors import InputError
from cropseg.core.labels import BACKGROUND
from cropseg.report import paper, tables
from cropseg.report.paper import ABSENT, LOST
from cropseg.report.paper_form import NOT_RECORDED, PAPER, Model, PaperTable, Shown, made, spread, words

UNKNOWN: Final = "not known"
"""Where a run's config or weights are gone."""

UNET: Final = "UNet4LevelsGN"
"""The paper's network, of which the code settles what no option says."""


def configuration(shown: Shown) -> PaperTable:
    """Table 5: the networks' configuration; what the paper does not tell stands below its own rows."""
    nets = [model for model in shown.models if not model.forest]
    told = [_configuration(model) for model in nets]
    printed = {row[0]: row[1] for row in paper.TABLE_5.rows} | paper.BESIDE_TABLE_5
    rows = []
    for name in dict.fromkeys([*printed, *(key for one in told for key in one)]):
        value = printed.get(name, ABSENT)
        if value == LOST:
            value = f"{paper.RECOVERED[name]} (recovered)" if name in paper.RECOVERED else "lost in the text"
        rows.append((name, value, *(one.get(name, ABSENT) for one in told)))
    recovered = (
        "The patch size is recovered from Tables 2 and 3: 4,412,997,632 pixels / 67,337 patches = 256². Rows from "
        "the highest validation mIoU on are not in the paper's table; what it tells of them stands in its section 3.1"
    )
    columns = words("parameter", PAPER, *(model.title for model in nets))
    return made(paper.TABLE_5, columns, rows, recovered, *(_forest(model) for model in shown.models if model.forest))


def _configuration(model: Model) -> dict[str, str]:
    """Cells of one network by the paper's names, and ours for what the paper does not have."""
    run = model.first
    net = run.spec.model.get("net", {})
    name = str(net.get("_target_", UNKNOWN)).rpartition(".")[2]
    unet = name == UNET
    groups = net.get("groups")
    factor = _config(model, "scheduler.factor")
    rate = _config(model, "optimizer.lr")
    return {
        "Model class": name,
        "Levels": "4" if unet else ABSENT,
        "Input bands": f"{len(run.spec.bands)} Sentinel-2 bands",
        "Input patch size": f"{run.spec.patch_size} × {run.spec.patch_size}",
        "Number of classes": str(len(run.spec.taxonomy)),
        "Base channels": str(net.get("base", ABSENT)),
        "Normalization": f"Group Normalization, {groups} groups" if unet else ABSENT,
        "Upsampling mode": "Bilinear" if unet else ABSENT,
        "Bottleneck dropout": str(net.get("bottleneck_dropout", ABSENT)),
        "Decoder dropout": str(net.get("decoder_dropout", ABSENT)),
        "Trainable parameters": _parameters(model),
        "Batch size": _config(model, "dataset.batch_size"),
        "Optimizer": _config(model, "optimizer._target_").rpartition(".")[2],
        "Initial learning rate": rate,
        "LR reduction factor": factor,
        "Maximum epochs": _config(model, "epochs"),
        "Best checkpoint epoch": _epochs(model),
        "Checkpoint size": _size(model),
        **_loss(model),
        "Ignored label": "255, where a mask is unknown",
        "Highest validation mIoU": spread([_most(one.history.get("val_miou")) for one in model.runs]),
        "Other terms of the loss": _other_terms(model),
        "Scheduler": _scheduler(model),
        "Pixels without data": str(run.spec.model.get("nodata", UNKNOWN)),
        "Augmentation": {"True": "Flips and quarter turns", "False": "None"}.get(
            _config(model, "dataset.augment"), UNKNOWN
        ),
        "Precision": _config(model, "trainer.precision"),
        "Split": run.spec.split,
        "Seeds": ", ".join("not known" if one.seed is None else str(one.seed) for one in model.runs),
    }


def _config(model: Model, key: str) -> str:
    """A value of the composed config, as it stands there."""
    found = OmegaConf.select(model.first.config, key, default=None, throw_on_resolution_failure=False)
    if found is None:
        group = OmegaConf.select(model.first.config, key.split(".")[0], default=None)
        return "none" if group is not None and "." in key else UNKNOWN
    return f"{found:g}" if isinstance(found, float) else str(found)


def _parameters(model: Model) -> str:
    """Trainable parameters, counted in the weights: what a network keeps of its data (batch norm) is none."""
    import torch

    path = model.first.path / "weights.pt"
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return UNKNOWN
    if not isinstance(weights, Mapping) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        return UNKNOWN
    kept = ("running_mean", "running_var", "num_batches_tracked")
    return f"{sum(value.numel() for name, value in weights.items() if not str(name).endswith(kept)):,}"


def _size(model: Model) -> str:
    path = model.first.path / "weights.pt"
    return f"{path.stat().st_size / 1e6:.2f} MB" if path.is_file() else UNKNOWN


def _epochs(model: Model) -> str:
    """The chosen checkpoint of each seed, counted from 1 as the paper does."""
    found = [run.validation.get("epoch") for run in model.runs]
    return ", ".join(str(epoch + 1) if isinstance(epoch, int) else UNKNOWN for epoch in found)


def _terms(model: Model) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Terms of the loss and their weights, by name."""
    loss = OmegaConf.select(model.first.config, "loss", default=None)
    plain = OmegaConf.to_container(loss, resolve=False) if OmegaConf.is_config(loss) else {}
    if not isinstance(plain, Mapping):
        return {}, {}
    terms, weights = plain.get("terms"), plain.get("weights")
    if isinstance(terms, Mapping) and isinstance(weights, Mapping):
        return terms, weights
    return ({"loss": plain}, {"loss": 1.0}) if "_target_" in plain else ({}, {})


def _kind(term: object) -> str:
    return str(term.get("_target_", "")).rpartition(".")[2] if isinstance(term, Mapping) else ""


def _weight(weights: Mapping[str, Any], name: str) -> str:
    found = weights.get(name, 1.0)
    return f"{found:g}" if isinstance(found, int | float) else str(found)


def _loss(model: Model) -> dict[str, str]:
    terms, weights = _terms(model)
    if not terms:
        return dict.fromkeys(("Cross-entropy weighting", "Dice weight", "Dice background"), UNKNOWN)
    ce = next((name for name, term in terms.items() if _kind(term) == "CrossEntropy"), None)
    dice = next((name for name, term in terms.items() if _kind(term) == "Dice"), None)
    weighted = tables.class_values(model.first, len(model.first.spec.taxonomy)) is not None
    left_out = [] if dice is None else terms[dice].get("exclude")
    excluded = isinstance(left_out, Sequence) and not isinstance(left_out, str) and BACKGROUND in left_out
    return {
        "Cross-entropy weighting": "no cross-entropy" if ce is None else "Class-weighted" if weighted else "none",
        "Dice weight": "no Dice" if dice is None else _weight(weights, dice),
        "Dice background": "no Dice" if dice is None else "Excluded" if excluded else "Included",
    }


def _other_terms(model: Model) -> str:
    terms, weights = _terms(model)
    others = [
        f"{_weight(weights, n)} · {_kind(t)}" for n, t in terms.items() if _kind(t) not in ("CrossEntropy", "Dice")
    ]
    return ", ".join(others) or ("none" if terms else UNKNOWN)


def _scheduler(model: Model) -> str:
    name = _config(model, "scheduler._target_").rpartition(".")[2]
    patience = OmegaConf.select(model.first.config, "scheduler.patience", default=None)
    return name if patience is None else f"{name}, patience {patience}"


def _forest(model: Model) -> str:
    """What the paper's table has no row for: a forest's settings."""
    spec = model.first.spec.model
    forest, sampling = spec.get("forest", {}), spec.get("sampling", {})
    told = [f"{forest[key]} {word}" for key, word in (("n_estimators", "trees"),) if forest.get(key)]
    told += [f"{key} {forest[key]}" for key in ("max_depth", "max_samples") if key in forest]
    windows, context = spec.get("windows"), spec.get("context")
    features = len(model.first.spec.bands) + 2 * len(windows or ()) * len(context or ())
    told.append(f"{features} features")
    if context and windows:
        told.append(f"mean and deviation of {', '.join(context)} in windows of {_listed(windows)} pixels")
    if pixels := sampling.get("pixels"):
        told.append(f"{sum(pixels):,} training pixels")
    return f"{model.label} is a forest and has no place in this table: {'; '.join(told)}"


def _listed(values: Sequence[object]) -> str:
    return " and ".join(map(str, values))


def hardware(shown: Shown) -> PaperTable:
    """Table 6: what the models were trained on; time, throughput and memory stand below the paper's rows."""
    found = [_machine(model) for model in shown.models]
    printed = {row[0]: row[1] for row in paper.TABLE_6.rows}
    names = dict.fromkeys([*printed, *(key for one in found for key in one)])
    rows = [
        (name, printed.get(name, ABSENT), *(one.get(name, ABSENT) if one else NOT_RECORDED for one in found))
        for name in names
    ]
    left = ", ".join(model.label for model, one in zip(shown.models, found, strict=True) if not one)
    missing = f"Trained before hardware was recorded: {left}; training again fills the column" if left else ""
    return made(
        paper.TABLE_6,
        words("component", PAPER, *(model.title for model in shown.models)),
        rows,
        "The CUDA version is the driver's in the paper, PyTorch's in ours. Peak GPU memory is what PyTorch allocated. "
        "A training time includes its validations; a forest's is that of drawing pixels and fitting",
        missing,
    )


def _machine(model: Model) -> dict[str, str]:
    """Cells of one model; empty where its runs did not record any. Runs on different machines are all named."""
    records = [storage.read_json(path) for run in model.runs if (path := run.path / "hardware.json").is_file()]
    if not records:
        return {}
    if not all(isinstance(one, Mapping) for one in records):
        raise InputError(f"hardware.json of {model.label} is no record of hardware", None, "train the run again")

    def named(key: str, unit: str = "") -> str:
        return " or ".join(dict.fromkeys(f"{one[key]}{unit}" for one in records if key in one)) or ABSENT

    cores = [f"{one.get('cpu_cores', '?')} cores / {one.get('cpu_threads', '?')} threads" for one in records]
    timed = [one for one in records if isinstance(one.get("seconds"), int | float)]
    seconds = [float(one["seconds"]) for one in timed]
    epochs = [
        one["seconds"] / one["epochs"] for one in timed if isinstance(one.get("epochs"), int) and one["epochs"] > 0
    ]
    speed = [_median(run.history.get("patches_per_second")) for run in model.runs]
    peak = [_most(run.history.get("gpu_memory_gib")) for run in model.runs]
    return {
        "GPU": named("gpu") if any("gpu" in one for one in records) else "none used",
        "GPU memory": named("gpu_memory_gib", " GiB"),
        "CPU": named("cpu"),
        "CPU cores / threads": " or ".join(dict.fromkeys(cores)),
        "RAM": named("ram_gib", " GiB"),
        "Operating system": named("system"),
        "GPU driver": named("gpu_driver"),
        "CUDA version": named("cuda"),
        "Processes": named("processes"),
        "Training time": _range(seconds, "s"),
        "Time per epoch": _range(epochs, "s"),
        "Throughput in training": _range(speed, "patches/s"),
        "Peak GPU memory": _range(peak, "GiB"),
    }


def _median(values: Any) -> float:
    return math.nan if values is None or np.isnan(values).all() else float(np.nanmedian(values))


def _most(values: Any) -> float:
    return math.nan if values is None or np.isnan(values).all() else float(np.nanmax(values))


def _range(values: Sequence[float], unit: str) -> str:
    """Mean and range with three significant digits; a dash for none."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return ABSENT
    mean, low, high = (
        f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in (np.mean(known), min(known), max(known))
    )
    return f"{mean} {unit}" if low == high else f"{mean} ({low} … {high}) {unit}"
