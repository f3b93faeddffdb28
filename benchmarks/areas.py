"""Areas of a map's classes against the truth: counted pixels, and what samples of sample.py's kind estimate.

    python benchmarks/areas.py map.tif parcels.gpkg [--table names.csv] [--total 600] [--draws 200]

Where parcels are exhaustive (as on the simulated region) the true area of each class on the mapped ground is known, so
that samples can be drawn and looked up many times. Printed: the true and the counted area, the mean of the estimates,
and the share of 95 % intervals that hold the truth. Crops outside the taxonomy are background here.
"""

from __future__ import annotations

import argparse

import numpy as np

from cropseg.area import Sample, estimate
from cropseg.core import taxonomy
from cropseg.core.labels import BACKGROUND, IGNORE
from cropseg.core.tiling import Window
from cropseg.draw import Design, draw
from cropseg.map_file import open_map
from data_prep.truth import ParcelTruth


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("map")
    parser.add_argument("parcels")
    parser.add_argument("--table")
    parser.add_argument("--total", type=int, default=600)
    parser.add_argument("--draws", type=int, default=200)
    args = parser.parse_args()
    classes = taxonomy.load("eurocrops10_corrected")
    n = len(classes)
    truth = ParcelTruth(args.parcels, classes, unmapped="background", fields={"table": args.table})
    values, held = [], []
    with open_map(args.map, classes) as opened:
        mapped = opened.read(Window(0, 0, opened.grid.height, opened.grid.width))
        true, _ = truth.read(opened.grid)
        true[true == IGNORE] = BACKGROUND
        hectares = opened.metres / 1e4
        area, counted = (np.bincount(one[mapped != IGNORE], minlength=n)[:n] * hectares for one in (true, mapped))
        for seed in range(args.draws):
            drawn = draw(opened, Design(total=args.total, seed=seed))
            inclusion = (np.array(drawn.points) / np.array(drawn.pixels))[drawn.stratum]
            reference = true[drawn.rows, drawn.cols].astype(np.int64)
            sample = Sample(classes.names, drawn.stratum, drawn.mapped, reference, inclusion, hectares)
            found = estimate(sample).area_ha
            values.append([one.value for one in found])
            held.append([one.low <= goal <= one.high for one, goal in zip(found, area, strict=True)])
    print("class          true ha  counted ha  difference  mean estimate ha  intervals that hold it")
    for i, name in enumerate(classes.names):
        print(
            f"{name:12s} {area[i]:9.1f} {counted[i]:11.1f} {counted[i] / max(area[i], 1e-9) - 1:+11.0%} "
            f"{np.mean(values, axis=0)[i]:17.1f} {np.mean(held, axis=0)[i]:23.0%}"
        )


if __name__ == "__main__":
    main()
