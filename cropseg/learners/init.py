"""Where the weights of a network start: at random, or from a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError, MismatchError
from cropseg.core.manifest import DatasetSpec
from cropseg.core.progress import say
from cropseg.learners.network import build_net, load
from cropseg.models.transfer import Axes, check_same_kind, freeze_encoder, transferred
from cropseg.predictor import ModelSpec, latest_run, reading_of


@dataclass(frozen=True)
class Init:
    """Where the weights of a network start.

    Attributes:
        run: Folder of a finished run of the same network, maybe with other bands or classes, or ``latest``; None
            leaves the weights as built.
        freeze_encoder: Whether only what follows the encoder is trained; parts of the stem that are new are trained
            all the same.
        runs: Folder in which ``latest`` is looked for.
    """

    run: str | Path | None = None
    freeze_encoder: bool = False
    runs: str | Path = "."

    def apply(self, net: nn.Module, spec: DatasetSpec) -> dict[str, Any]:
        """Change the weights of a network built for ``spec`` in place, and say what was done.

        Returns:
            What the new run remembers as :attr:`cropseg.predictor.ModelSpec.init_from`; empty without a run.

        Raises:
            InputError: There is no such run, or it is broken.
            MismatchError: It is of another kind or width, or shares no band.
            ConfigError: The encoder is to be frozen, and there is no run, or it is not known what it is.
        """
        if self.run is None:
            if self.freeze_encoder:
                raise ConfigError("freeze_encoder without init_from", None, "an untrained encoder must learn")
            return {}
        path = latest_run(Path(self.runs)) if str(self.run) == "latest" else Path(self.run)
        source = _spec_of(path)
        with torch.random.fork_rng(devices=[]):  # the draws of the run that begins stay its own
            state, axes = _trained(path, source, net)
        fresh = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
        check_same_kind(state, fresh, axes, path.name)
        bands, classes = (source.bands, spec.bands), (source.taxonomy.names, spec.taxonomy.names)
        net.load_state_dict(transferred(state, fresh, axes, bands, classes))
        new_bands = [band for band in spec.bands if band not in source.bands]
        frozen = freeze_encoder(net, learning=tuple(axes.stem) if new_bands else ()) if self.freeze_encoder else 0
        _tell(path, source, spec, frozen)
        return {
            "run": path.resolve().name,
            "folder": str(path.resolve()),
            "frozen": self.freeze_encoder,
            "simulated": source.simulated,
            "trained_on": [dict(one) for one in source.trained_on],
        }


def _spec_of(path: Path) -> ModelSpec:
    if not (path / "spec.json").is_file():
        remedy = "give the folder of a finished run, or latest"
        raise InputError(f"init_from={path} is no finished run (spec.json is missing)", None, remedy)
    try:
        return ModelSpec.from_dict(storage.read_json(path / "spec.json"))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path / 'spec.json'} is not a model's", str(error), "train again") from error


def _trained(path: Path, source: ModelSpec, net: nn.Module) -> tuple[Mapping[str, torch.Tensor], Axes]:
    """Weights of a finished run, and the axes of its network that stand for bands and classes."""
    recipe = source.model.get("net")
    kind = f"{type(net).__module__}.{type(net).__qualname__}"
    theirs = recipe.get("_target_") if isinstance(recipe, Mapping) else source.loader
    if not isinstance(recipe, Mapping) or theirs != kind:
        raise MismatchError(f"init_from={path.name} is a run of {theirs}, the network to train is", kind, "use its own")
    trained = load(path, source).net.cpu()
    bands, classes = len(source.bands), len(source.taxonomy)
    more_bands = build_net(recipe, bands + 1, classes, pretrained=False).state_dict()
    more_classes = build_net(recipe, bands, classes + 1, pretrained=False).state_dict()
    return trained.state_dict(), Axes.found(trained, more_bands, more_classes)


def _tell(path: Path, source: ModelSpec, spec: DatasetSpec, frozen: int) -> None:
    """One line: what was copied, what is new, what was dropped."""
    said = [f"weights start from run {path.name} (trained on {source.dataset})"]
    for what, old, new, start in (
        ("bands", source.bands, spec.bands, "at zero"),
        ("classes", source.taxonomy.names, spec.taxonomy.names, "afresh"),
    ):
        copied = [name for name in new if name in old]
        said.append(f"{len(copied)} of {len(new)} {what} copied")
        if len(copied) < len(new):
            said.append(f"{', '.join(name for name in new if name not in old)} {start}")
        if dropped := [name for name in old if name not in new]:
            said.append(f"{', '.join(dropped)} dropped")
    if source.resolution != spec.resolution:
        said.append(f"pixels of {spec.resolution:g} m instead of {source.resolution:g} m")
    now = reading_of(spec)
    if differs := [
        f"{key}={now[key]} instead of {was}" for key, was in source.reading.items() if now.get(key, was) != was
    ]:
        said.append(f"products read with {', '.join(differs)}, so pixels mean something else")
    if frozen:
        said.append(f"encoder frozen ({frozen:,} parameters)")
    say("; ".join(said))
