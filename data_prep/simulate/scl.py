"""The scene classification that comes with a product: mostly right, with the mistakes that real ones make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cropseg.core.bands import SceneClass
from data_prep.simulate.atmosphere import Air

FloatArray = npt.NDArray[np.float32]


def classify(
    pixels: Mapping[str, FloatArray],
    air: Air,
    valid: npt.NDArray[np.bool_],
    saturated: npt.NDArray[np.bool_],
    random: np.random.Generator,
) -> npt.NDArray[np.uint8]:
    """Class of each 20 m pixel, uint8.

    Thin edges of clouds stay unnoticed, shadows are looked for where a cloud of another height would throw them, bright
    roofs pass for clouds, and some pixels get no class: the kinds of error that the Sen2Cor validation reports name.

    Args:
        pixels: Reflectance as delivered, by band at native resolution.
        air: Over the 10 m pixels of the block.
        valid: Whether the swath covers each 20 m pixel.
        saturated: Saturated 20 m pixels.
        random: For the mistakes.
    """
    red, green, blue = (_coarse(pixels[name]) for name in ("B04", "B03", "B02"))
    infrared, swir = pixels["B8A"], pixels["B11"]
    cloud, shadow, cirrus = (_coarse(layer) for layer in (air.cloud, air.shadow_seen, air.cirrus))
    index = (infrared - red) / np.maximum(infrared + red, 0.01) + 0.03 * random.standard_normal(
        red.shape, dtype=np.float32
    )
    found = np.full(red.shape, int(SceneClass.UNCLASSIFIED), dtype=np.uint8)
    found[index > 0.40] = SceneClass.VEGETATION
    found[index < 0.34] = SceneClass.BARE
    found[(infrared < 0.09) & (swir < 0.10)] = SceneClass.DARK
    found[(index < 0.1) & (infrared < 0.07) & (green > infrared)] = SceneClass.WATER
    found[random.random(red.shape, dtype=np.float32) < 0.003] = SceneClass.UNCLASSIFIED
    doubt = 0.08 * random.standard_normal(red.shape, dtype=np.float32)
    found[(shadow > 0.45 + doubt) & (infrared < 0.30)] = SceneClass.CLOUD_SHADOW
    found[(cirrus > 0.025) & (blue > 0.05)] = SceneClass.CIRRUS
    found[(cloud > 0.35 + doubt) | (blue > 0.30)] = SceneClass.CLOUD_MEDIUM
    found[cloud > 0.75 + doubt] = SceneClass.CLOUD_HIGH
    found[saturated] = SceneClass.SATURATED
    found[~valid] = SceneClass.NO_DATA
    return found


def cloud_cover(classes: npt.NDArray[Any]) -> float:
    """Percent of the pixels with data that are cloud or cirrus."""
    valid = int(np.count_nonzero(classes != int(SceneClass.NO_DATA)))
    cloudy = np.isin(classes, [int(SceneClass.CLOUD_MEDIUM), int(SceneClass.CLOUD_HIGH), int(SceneClass.CIRRUS)])
    return 100.0 * int(np.count_nonzero(cloudy)) / max(valid, 1)


def _coarse(values: FloatArray) -> FloatArray:
    result: FloatArray = (values[::2, ::2] + values[1::2, ::2] + values[::2, 1::2] + values[1::2, 1::2]) * np.float32(
        0.25
    )
    return result
