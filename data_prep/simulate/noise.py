"""Randomness that depends on names and places alone: never on the order of work, on block sizes or on workers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def generator(*keys: str | int) -> np.random.Generator:
    """A generator of its own for each sequence of names and numbers.

    Args:
        keys: What the numbers are for, such as (seed, region, "clouds").
    """
    digest = hashlib.sha256("\x1f".join(str(key) for key in keys).encode()).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(np.frombuffer(digest, dtype="<u4")))))


@dataclass(frozen=True)
class Field:
    """A smooth random field over the plane: a sum of cubic B-spline octaves of white noise, mean 0, variance 1.

    It is evaluated anywhere in its bounds, so that two blocks meet without a seam.

    Attributes:
        origin: (x, y) of the lattices' corner in metres.
        spacings: Distance of lattice points in metres, an octave each.
        lattices: White noise, already scaled, one array (rows upwards, columns) an octave.
    """

    origin: tuple[float, float]
    spacings: tuple[float, ...]
    lattices: tuple[FloatArray, ...]

    def at(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> FloatArray:
        """Values at the grid of columns ``x`` and rows ``y``, float32 (len(y), len(x)).

        Coordinates outside the lattices take the value at their border.
        """
        total = np.zeros((len(y), len(x)), dtype=np.float32)
        for spacing, lattice in zip(self.spacings, self.lattices, strict=True):
            rows = _spline((np.asarray(y) - self.origin[1]) / spacing, lattice, axis=0)
            total += _spline((np.asarray(x) - self.origin[0]) / spacing, rows, axis=1)
        return total

    def at_points(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> FloatArray:
        """Values at scattered points, float32, the shape of ``x``."""
        total = np.zeros(np.shape(x), dtype=np.float32)
        for spacing, lattice in zip(self.spacings, self.lattices, strict=True):
            i, wy = _taps((np.asarray(y) - self.origin[1]) / spacing, lattice.shape[0])
            j, wx = _taps((np.asarray(x) - self.origin[0]) / spacing, lattice.shape[1])
            for a in range(4):
                for b in range(4):
                    total += wy[a] * wx[b] * lattice[i + a, j + b]
        return total


def field(
    bounds: tuple[float, float, float, float],
    spacings: Sequence[float],
    weights: Sequence[float],
    *keys: str | int,
) -> Field:
    """Draw a field.

    Args:
        bounds: Left, bottom, right, top in metres.
        spacings: Lattice distance of each octave in metres.
        weights: Share of each octave in the standard deviation.
        keys: Names for :func:`generator`.
    """
    left, bottom, right, top = bounds
    # A cubic B-spline of unit white noise has variance (151/315)² on average over the plane.
    norm = (151 / 315) * float(np.sqrt(np.sum(np.square(weights))))
    lattices = []
    for spacing, weight in zip(spacings, weights, strict=True):
        shape = (int(np.ceil((top - bottom) / spacing)) + 4, int(np.ceil((right - left) / spacing)) + 4)
        white = generator(*keys, f"octave {spacing:g}").standard_normal(shape, dtype=np.float32)
        lattices.append(white * np.float32(weight / norm))
    return Field((left, bottom), tuple(float(s) for s in spacings), tuple(lattices))


def _taps(position: npt.NDArray[np.float64], length: int) -> tuple[npt.NDArray[np.intp], list[FloatArray]]:
    """First lattice index and the four cubic B-spline weights at each position."""
    place = np.clip(position, 0, length - 4 - 1e-6)
    first = np.floor(place).astype(np.intp)
    t = (place - first).astype(np.float32)
    u = 1 - t
    weights = [u**3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (3 * u**3 - 6 * u**2 + 4) / 6, t**3 / 6]
    return first, [weight.astype(np.float32) for weight in weights]


def _spline(position: npt.NDArray[np.float64], values: FloatArray, axis: int) -> FloatArray:
    first, weights = _taps(position, values.shape[axis])
    shape = (-1, 1) if axis == 0 else (1, -1)
    total = np.zeros((), dtype=np.float32)
    for tap, weight in enumerate(weights):
        total = total + np.take(values, first + tap, axis=axis) * weight.reshape(shape)
    return np.asarray(total, dtype=np.float32)
