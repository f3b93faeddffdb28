"""Weights of a trained network for one with other bands or other classes.

Which tensors belong to the stem and which to the head is not written down for each network but found: the stem is what
changes shape with the number of bands, the head what changes shape with the number of classes.

- Stem: the channels of bands of the same name are copied. Where a tensor sums over bands, as a convolution does over
  its input channels, a new band starts at zero; where it gives each band values of its own, as a normalisation or a
  depthwise convolution does, a new band keeps those of the fresh network. The network then begins as the function it
  was, whatever the new band shows, and learns to use it: the gradient of a zero weight is not zero, that of two zero
  factors in a row is. The mean of the copied channels would shift every sum, and the normalisation after it, from the
  first step on.
- Head: the rows of classes of the same name are copied; a new class keeps the row of the fresh network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cropseg.core.errors import ConfigError, MismatchError

State = Mapping[str, Tensor]

ENCODER_NAMES = ("encoder", "backbone")
"""Modules of these names are the encoder of a network that does not list the parts of its own."""


@dataclass(frozen=True)
class Axes:
    """Which axis of which tensor stands for bands or classes.

    Attributes:
        stem: Axis of the bands by tensor name.
        head: Axis of the classes by tensor name.
        summed: Those tensors of the stem that sum over their axis of bands.
    """

    stem: Mapping[str, int]
    head: Mapping[str, int]
    summed: frozenset[str]

    @classmethod
    def found(cls, net: nn.Module, more_bands: State, more_classes: State) -> Axes:
        """Compare a network's tensors with those of the same one with one more band, and with one more class."""
        state = net.state_dict()
        stem = _grown(state, more_bands)
        summed = frozenset(name for name, axis in stem.items() if _sums_over(net, name, state[name], axis))
        return cls(stem, _grown(state, more_classes), summed)


def _sums_over(net: nn.Module, name: str, tensor: Tensor, axis: int) -> bool:
    """Whether a network sums over an axis of a tensor; along the others each channel has values of its own."""
    owner = net.get_submodule(name.rpartition(".")[0])
    if isinstance(owner, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return tensor.ndim > 1 and axis == 0 and owner.groups == 1
    # One row of channels, such as (1, bands, 1, 1), is a factor or an offset of each, unless a layer says otherwise.
    row = tensor.shape[0] == 1 and not isinstance(owner, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return axis == 1 and not row


def _grown(net: State, larger: State) -> dict[str, int]:
    return {
        name: axis
        for name, tensor in net.items()
        for axis, (a, b) in enumerate(zip(tensor.shape, larger[name].shape, strict=True))
        if a != b
    }


def check_same_kind(source: State, fresh: State, axes: Axes, run: str) -> None:
    """Refuse weights of another network.

    Raises:
        MismatchError: Tensors are missing or too many, or differ in a size that bands and classes do not explain.
    """
    remedy = "use the run's own model= and its widths"
    for title, names in (("lacks", set(fresh) - set(source)), ("has in excess", set(source) - set(fresh))):
        if names:
            raise MismatchError(f"run {run} {title} {len(names)} weights of this network, such as", min(names), remedy)
    for name, tensor in fresh.items():
        free = {axes.stem.get(name), axes.head.get(name)}
        theirs, ours = ([n for axis, n in enumerate(t.shape) if axis not in free] for t in (source[name], tensor))
        if source[name].ndim != tensor.ndim or theirs != ours:
            raise MismatchError(
                f"run {run} has other widths than this network: {name} has {tuple(source[name].shape)} against",
                tuple(tensor.shape),
                remedy,
            )


def transferred(
    source: State,
    fresh: State,
    axes: Axes,
    bands: tuple[Sequence[str], Sequence[str]],
    classes: tuple[Sequence[str], Sequence[str]],
) -> dict[str, Tensor]:
    """State of a network that starts from another's weights.

    Args:
        source: Trained weights; :func:`check_same_kind` has passed.
        fresh: Weights of the new network as built.
        axes: Axes of bands and classes.
        bands: Names of the source's bands and of the new ones.
        classes: Names of the source's classes and of the new ones.

    Raises:
        MismatchError: The networks share no band, or an axis does not have a place for each band or class.
    """
    if not set(bands[0]) & set(bands[1]):
        raise MismatchError("the run shares no band with the dataset", list(bands[0]), "start afresh")
    state = {}
    for name, tensor in fresh.items():
        value = source[name]
        if (axis := axes.stem.get(name)) is not None:
            zero = name in axes.summed or name in axes.head
            start = tensor.new_zeros(_resized(value, axis, tensor.shape[axis])) if zero else tensor.clone()
            value = _placed(name, value, start, axis, bands)
        if (axis := axes.head.get(name)) is not None:
            value = _placed(name, value, tensor.clone(), axis, classes)
        state[name] = value
    return state


def _resized(tensor: Tensor, axis: int, size: int) -> list[int]:
    shape = list(tensor.shape)
    shape[axis] = size
    return shape


def _placed(name: str, source: Tensor, target: Tensor, axis: int, names: tuple[Sequence[str], Sequence[str]]) -> Tensor:
    """``target`` with the slices of ``source`` of the same name in their places along ``axis``."""
    old, new = names
    if (source.shape[axis], target.shape[axis]) != (len(old), len(new)):
        raise MismatchError(f"{name} of this network cannot be carried over: its sizes do not follow bands and classes")
    pairs = [(old.index(one), place) for place, one in enumerate(new) if one in old]
    if not pairs:
        return target
    sources, places = (torch.tensor(column) for column in zip(*pairs, strict=True))
    return target.index_copy(axis, places, source.index_select(axis, sources).to(target.dtype))


def encoder_of(net: nn.Module) -> tuple[str, ...]:
    """Names of the modules that are the encoder of a network.

    A network may list them as ``encoder_parts``; otherwise they are the outermost modules called ``encoder`` or
    ``backbone``.

    Raises:
        ConfigError: There are none.
    """
    parts = tuple(getattr(net, "encoder_parts", ()))
    if parts:
        return parts
    named = [name for name, _ in net.named_modules() if name.rpartition(".")[2] in ENCODER_NAMES]
    outer = tuple(one for one in named if not any(one.startswith(f"{other}.") for other in named))
    if not outer:
        remedy = "give its class an attribute encoder_parts with the names of its modules, or freeze nothing"
        raise ConfigError("it is not known what the encoder is of network", type(net).__name__, remedy)
    return outer


def freeze_encoder(net: nn.Module, learning: Sequence[str] = ()) -> int:
    """Take the encoder out of training: no gradients, no optimiser state, dropout and normalisation as in prediction.

    Args:
        net: The network, changed in place.
        learning: Names of tensors that learn all the same, such as a stem with a new band.

    Returns:
        Number of parameters frozen.
    """
    frozen = 0
    for part in encoder_of(net):
        module = net.get_submodule(part)
        module.eval()
        for name, parameter in module.named_parameters():
            if f"{part}.{name}" not in learning:
                parameter.requires_grad_(False)
                frozen += parameter.numel()
    return frozen
