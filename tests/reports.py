"""Two small evaluated runs to report on: one nearly right and one nearly always wrong, both sure of themselves."""

from __future__ import annotations

import functools
from pathlib import Path

from factory import make_dataset
from fakes import Hashed, Nearest, make_run, spec_for, with_predictor

from cropseg.core import storage
from cropseg.evaluate import EvaluationSet, evaluate_runs
from cropseg.report.build import build_report
from cropseg.runs import Run, open_run

TEST_ONLY = {"train": 0.0, "val": 0.0, "test": 1.0}

IMPORTANCES = {
    "kind": "mean decrease in impurity",
    "features": [{"name": "B02", "importance": 0.25}, {"name": "B08", "importance": 0.75}],
}


def _classify(self, images):
    return self.labels(images), self.probabilities(images).max(axis=1)


class Sure(Nearest):
    """Tells how sure it is."""

    classify = _classify


class SureHashed(Hashed):
    """Tells how sure it is, which it always is."""

    classify = _classify


def two_runs(folder: Path) -> list[Run]:
    """A net and a forest, evaluated on the test part of their dataset and on another one."""
    own = make_dataset(folder / "own", n=10, size=32, nodata=True, ignored=True)
    away = make_dataset(folder / "away", n=4, size=24, parts=TEST_ONLY, protocol="crop", name="away", seed=4)
    spec = spec_for(own)
    loss = {"terms": {"ce": {"weight": [0.25, *range(1, 11)]}}}
    found = []
    for name, predictor, config in (("unet", Sure(spec), loss), ("forest", SureHashed(spec), None)):
        path = make_run(folder / "runs" / name, spec, own, model=name, loss=config, seed=1)
        found.append(with_predictor(open_run(path), predictor))
    storage.write_json(found[1].path / "importances.json", IMPORTANCES)
    (found[1].path / "metrics.csv").unlink()
    sets = [
        EvaluationSet("internal", None, None, note="held-out"),
        EvaluationSet("away", str(away.root), "location", protocol="crop"),
    ]
    evaluate_runs(found, sets)
    kinds = (Sure, SureHashed)
    return [with_predictor(open_run(run.path), kind(spec)) for run, kind in zip(found, kinds, strict=True)]


@functools.cache
def shown(base: Path) -> tuple[list[Run], Path]:
    """Two runs and the page about them below pytest's base folder, made once for all tests that do not change them."""
    folder = base / "shown"
    runs = two_runs(folder)
    return runs, build_report(runs, folder / "deep" / "report.html")
