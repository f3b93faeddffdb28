"""What is stored of a model on an evaluation set, and the scores that are read off it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from cropseg import metrics
from cropseg.core.errors import InputError
from cropseg.metrics import checked

Protocol = Literal["all", "crop"]
PROTOCOLS: Final[Mapping[Protocol, str]] = {"all": "all valid pixels", "crop": "labelled crop pixels"}
"""Both protocols, as people are told of them."""

MEANS: Final[Mapping[str, tuple[str, str]]] = {
    "miou": ("mIoU all", "divided by every class of the taxonomy; an absent class counts 0"),
    "miou_present": ("mIoU present", "classes with at least one truth pixel; absent ones left out"),
    "miou_union": ("mIoU union", "classes with a truth or a predicted pixel; others left out"),
    "miou_foreground": (
        "mIoU crops",
        "crops without background, on all pixels; an absent crop counts 0",
    ),
    "pixel_accuracy": ("pixel acc.", "correct pixels of all counted pixels"),
    "mean_class_accuracy": ("class acc.", "recall averaged over classes with at least one truth pixel"),
}
"""The scores that tables show: key of :func:`cropseg.metrics.scores`, heading, and the rule for absent classes."""

INTERNAL: Final = "internal"
"""Key of the set that a model's own test part is; it stands first, and drops are measured from it."""

SIMULATED_NOTE: Final = "simulated: measures the software, not crop mapping"
"""Stands beside every number measured on simulated pixels."""


def format_score(value: float) -> str:
    """A score with four digits, as the paper prints it; ``n/a`` for NaN."""
    return "n/a" if math.isnan(value) else f"{value:.4f}"


@dataclass(frozen=True)
class Evaluation:
    """What is stored of one model on one evaluation set; every score is read off the matrix.

    Attributes:
        set: Name of the evaluation set.
        dataset: Name of its dataset.
        root: Folder of the dataset as it was found.
        split: Split of the dataset.
        part: Part of the split.
        manifest_digest: SHA-256 of the dataset's manifest.
        simulated: Whether its pixels are simulated.
        trained_on_simulated: Whether the model's were.
        protocol: The protocol that this set is meant for; both can be read off.
        patches: Windows evaluated.
        patch_size: Their size in pixels.
        training_patch_size: Window in pixels that the model was trained on.
        classes: Class names by id.
        confusion: Pixels, rows truth, columns prediction.
        without_label: Pixels left out because their truth is 255.
        without_data: Labelled pixels left out because the image has no data there.
        note: What a reader of the score must know.
        tta: Test-time augmentation (``d4``: mean over eight symmetries); empty for none.
        shared_ground: Of the patches, the share whose ground also lies in the training part; None if not known.
        sharing: What else both share, :meth:`cropseg.ground.Sharing.to_dict`: ``years``, ``label_sources`` (None: not
            told) and ``same_dataset``; None for evaluations of earlier versions.
    """

    set: str
    dataset: str
    root: str
    split: str
    part: str
    manifest_digest: str
    simulated: bool
    trained_on_simulated: bool
    protocol: Protocol
    patches: int
    patch_size: int
    training_patch_size: int
    classes: tuple[str, ...]
    confusion: npt.NDArray[np.int64]
    without_label: int = 0
    without_data: int = 0
    note: str = ""
    tta: str = ""
    shared_ground: float | None = None
    sharing: Mapping[str, Any] | None = None

    @property
    def key(self) -> str:
        """Name of its file, and of its rows in tables: the set, and the augmentation if there was one."""
        return f"{self.set}+{self.tta}" if self.tta else self.set

    def scores(self, protocol: Protocol) -> dict[str, Any]:
        """All scores under ``protocol``; see :func:`cropseg.metrics.scores`."""
        return metrics.scores(self.confusion, protocol)

    @property
    def caveats(self) -> tuple[str, ...]:
        """What must stand beside each score of this evaluation."""
        found = []
        if self.simulated:
            found.append(SIMULATED_NOTE)
        elif self.trained_on_simulated:
            found.append("model trained on simulated data, scored on real data")
        if self.patch_size != self.training_patch_size:
            found.append(f"window {self.patch_size} px, trained on {self.training_patch_size} px")
        if self.part != "test":
            found.append(f"part {self.part}, not test")
        if self.shared_ground:
            found.append(f"ground shared with training: {self.shared_ground:.0%} of the patches")
        if self.sharing and not self.sharing["same_dataset"]:  # a part of the training dataset shares both by design
            for what, key in (("years", "years"), ("label source", "label_sources")):
                if shared := self.sharing[key]:
                    found.append(f"{what} shared with training: {', '.join(map(str, shared))}")
        return tuple(found)

    @property
    def marks(self) -> tuple[tuple[str, str], ...]:
        """Each caveat in a word or two, with its full text."""
        return tuple((text.split(":")[0].split(",")[0], text) for text in self.caveats)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``evaluation/<key>.json``."""
        return {**asdict(self), "classes": list(self.classes), "confusion": self.confusion.tolist()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evaluation:
        """Read back what :meth:`to_dict` gave; keys of later versions are left out.

        Raises:
            InputError: A key is missing, a value is of another kind, or the matrix is none over the classes.
        """
        remedy = "remove the file and evaluate again"
        try:
            known = {f.name: data[f.name] for f in fields(cls) if f.name in data}
            result = cls(**{**known, "classes": tuple(known["classes"]), "confusion": checked(known["confusion"])})
            wrong = [name for name, kind in _KINDS.items() if not isinstance(getattr(result, name), kind)]
            if result.sharing is not None:
                wrong += [
                    f"sharing.{key}" for key in ("years", "label_sources", "same_dataset") if key not in result.sharing
                ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError("not a stored evaluation", str(error), remedy) from error
        if wrong or not all(isinstance(name, str) for name in result.classes):
            raise InputError("not a stored evaluation, by its", wrong or ["classes"], remedy)
        if result.confusion.shape != (len(result.classes),) * 2:
            raise InputError("confusion matrix does not fit the classes", result.confusion.shape, remedy)
        if result.protocol not in PROTOCOLS:
            raise InputError("an evaluation was stored under no protocol of ours", result.protocol, remedy)
        return result


@dataclass(frozen=True)
class Scope:
    """What a score was counted on: only scores of one scope may stand side by side.

    Sets of the same name with other patches, classes or protocols are other scopes.

    Attributes:
        key: Name of the set, with the augmentation.
        dataset: Name of its dataset.
        split: Split of it.
        part: Part of that.
        protocol: Which pixels count.
        digest: SHA-256 of the dataset's manifest.
        classes: Class names.
    """

    key: str
    dataset: str
    split: str
    part: str
    protocol: Protocol
    digest: str
    classes: tuple[str, ...]

    @classmethod
    def of(cls, one: Evaluation, protocol: Protocol | None = None, key: str = "") -> Scope:
        """What an evaluation was counted on, read under ``protocol``; None for the one that its set is meant for."""
        where = (one.dataset, one.split, one.part)
        return cls(key or one.key, *where, protocol or one.protocol, one.manifest_digest, one.classes)

    @property
    def order(self) -> tuple[object, ...]:
        """What tables sort by: ``internal`` first, the rest by name."""
        where = (self.dataset, self.split, self.part, self.protocol, self.digest, self.classes)
        return (self.key != INTERNAL, self.key, *where)


def titles(scopes: Sequence[Scope]) -> list[str]:
    """What tables call each: the set, and what tells it from others of its name."""
    found = []
    for scope in scopes:
        twins = [one for one in scopes if one.key == scope.key]
        told = []
        if len({one.dataset for one in twins}) > 1:
            told.append(scope.dataset)
        for what in ("split", "part"):
            if len({getattr(one, what) for one in twins}) > 1:
                told.append(f"{what} {getattr(scope, what)}" if getattr(scope, what) else f"no {what}")
        if len({one.protocol for one in twins}) > 1:
            told.append(PROTOCOLS[scope.protocol])
        if len({one.classes for one in twins}) > 1:
            own = [name for name in scope.classes if any(name not in one.classes for one in twins)]
            told.append(f"{len(scope.classes)} classes" + (f" with {', '.join(own)}" if own else ""))
        alike = [one for one in twins if (one.dataset, one.split, one.part) == (scope.dataset, scope.split, scope.part)]
        if len({one.digest for one in alike}) > 1:
            told.append(scope.digest[:8] or "unknown")
        found.append(f"{scope.key} ({', '.join(told)})" if told else scope.key)
    # The same classes in another order are told apart by their place alone.
    return [one if found.count(one) == 1 else f"{one}, no. {found[: i + 1].count(one)}" for i, one in enumerate(found)]


_KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    **dict.fromkeys(("set", "dataset", "root", "split", "part", "manifest_digest", "protocol", "note", "tta"), str),
    **dict.fromkeys(("patches", "patch_size", "training_patch_size", "without_label", "without_data"), int),
    "shared_ground": (float, int, type(None)),
    "sharing": (dict, type(None)),
}
"""What the values of a stored evaluation are, as far as tables rely on it."""
