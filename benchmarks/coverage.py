"""How often 95 % intervals hold the truth: ground is made anew many times, with a truth that is known.

    python benchmarks/coverage.py --sets 400 --places 10 20 30 100 --draws 500

A place has its own mix of crops (Dirichlet) and its own share of correct pixels, so that pixels of a place are alike.
The truth is the score of endless such ground. Told are the share of intervals that hold it, over places for one fitted
model (and of plain bootstrap percentiles, for the first score), and over places and seeds for a model trained three
times; and how often two equal models are called different at p < 0.05. What is simulated are confusion matrices, no
pixels.
"""

from __future__ import annotations

import argparse

import numpy as np

from cropseg.intervals import compare_all, intervals
from cropseg.metrics import scores
from cropseg.redraw import Places, draw

CLASSES = 6
PIXELS = 4000
SHOWN = ("miou_present", "pixel_accuracy", "mean_class_accuracy")


def ground(random: np.random.Generator, places: int, models: list[float]) -> list[Places]:
    """The same places seen by several models, each right by its own share of pixels, give or take what a place adds."""
    found: list[dict[str, np.ndarray]] = [{} for _ in models]
    for place in range(places):
        truth = random.multinomial(PIXELS, random.dirichlet(np.full(CLASSES, 0.5)))
        hard = random.normal(0, 0.12)
        for of_model, right in zip(found, models, strict=True):
            share = np.clip(right + hard + random.normal(0, 0.03), 0.01, 0.99)
            odds = np.full((CLASSES, CLASSES), (1 - share) / (CLASSES - 1))
            np.fill_diagonal(odds, share)
            of_model[f"{place:05}"] = random.multinomial(truth, odds).astype(np.int64)
    return list(found)


def truths(random: np.random.Generator, right: float, spread: float, seeds: int) -> dict[str, float]:
    """Scores of a way of training on much ground: their mean over many seeds."""
    rights = random.normal(right, spread, seeds) if spread else np.full(1, right)
    found = [scores(np.sum(list(ground(random, 6000 // len(rights) + 200, [one])[0].values()), 0)) for one in rights]
    return {name: float(np.mean([one[name] for one in found])) for name in SHOWN}


def main() -> None:
    """Print a table for each number of places."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", type=int, default=400)
    parser.add_argument("--places", type=int, nargs="+", default=[10, 20, 30, 100])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random = np.random.default_rng(given.seed)
    spread = 0.03
    fitted, trained = truths(random, 0.7, 0.0, 1), truths(random, 0.7, spread, 300)
    print(f"{given.sets} sets of ground, {given.draws} draws; truth, one model: {fitted}; over seeds: {trained}")
    print(
        "places  "
        + "  ".join(f"{name:>20}" for name in SHOWN)
        + "   percentiles  3 seeds, miou_present  equal models differ"
    )
    for places in given.places:
        held = dict.fromkeys(SHOWN, 0)
        seeds = wrong = percentiles = 0
        for _ in range(given.sets):
            one, other = ground(random, places, [0.7, 0.7])
            found = intervals([one], draws=given.draws).means
            for name in SHOWN:
                held[name] += found[name].low <= fitted[name] <= found[name].high
            drawn = draw([one], "all", given.draws, 0.95, 0).found[SHOWN[0]][0]
            low, high = np.quantile(drawn, [0.025, 0.975])
            percentiles += low <= fitted[SHOWN[0]] <= high
            wrong += compare_all([[one], [other]], draws=given.draws)[0, 1].p < 0.05
            three = ground(random, places, list(random.normal(0.7, spread, 3)))
            over = intervals(three, draws=given.draws).means["miou_present"]
            seeds += over.low <= trained["miou_present"] <= over.high
        shares = "  ".join(f"{count / given.sets:>20.1%}" for count in held.values())
        rest = f"{percentiles / given.sets:>12.1%}  {seeds / given.sets:>21.1%}  {wrong / given.sets:>19.1%}"
        print(f"{places:>6}  {shares}  {rest}", flush=True)


if __name__ == "__main__":
    main()
