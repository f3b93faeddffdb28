from dataclasses import replace

import numpy as np
import pytest
from factory import make_dataset
from fakes import make_run, spec_for
from scenes import Erratic

from cropseg import details
from cropseg.certainty import comparison_rows, confidence_rows, interval_rows, once_rows
from cropseg.evaluate import EvaluationSet, examine
from cropseg.intervals import FITTED_ONLY, bootstrap
from cropseg.runs import open_run

PLACES = 12


class Shifted(Erratic):
    """Right where the hash says so, the more often the higher the share."""

    def __init__(self, spec, share, seed):
        super().__init__(spec)
        self.share, self.seed = share, seed

    def classify(self, images):
        hashed, sure = super().classify(images)
        lucky = (hashed.astype(int) * 37 + np.arange(hashed[0].size).reshape(hashed[0].shape) * (self.seed + 3)) % 100
        return np.where(lucky < self.share, 0, hashed).astype(np.uint8), sure


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Two models of three seeds each on twelve places."""
    folder = tmp_path_factory.mktemp("runs")
    data = make_dataset(folder / "d", n=PLACES, size=8, parts={"train": 0.0, "val": 0.0, "test": 1.0})
    runs = []
    for name, share in (("good", 80), ("bad", 10)):
        for seed in range(3):
            path = make_run(folder / f"{name}{seed}", spec_for(data), data, model=name, seed=seed)
            run = open_run(path)
            evaluation, found = examine(
                Shifted(spec_for(data), share, seed), EvaluationSet("internal", None, None).of(run)
            )
            run.store(evaluation, replace(found, without={"recalibration": "it was not asked for"}))
            runs.append(open_run(path))
    return runs


def test_intervals_of_each_run_and_of_training_anew(scored):
    rows = interval_rows(scored, ["internal"])
    assert [row[-1] for row in rows] == [*["this fitted model"] * 6, *["training anew, 3 seeds"] * 2]
    assert all(row[-2] == f"{PLACES} places" for row in rows)
    expected = bootstrap(scored[0].details("internal").clusters, "pixel_accuracy")
    assert rows[0][4] == f"{expected.value:.4f} ({expected.low:.4f} … {expected.high:.4f})"


def test_models_are_compared_over_seeds_and_p_values_corrected(scored):
    rows = comparison_rows(scored, ["internal", "nowhere"])
    assert [row[3] for row in rows] == ["mIoU present", "pixel acc."]
    assert rows[1][2] == "good - bad"
    assert rows[1][4].startswith("+")
    assert "3 seeds and 3 seeds, 12 places" in rows[1][-1]
    assert all(float(row[6].lstrip("< ")) >= float(row[5].lstrip("< ")) for row in rows)
    fitted = comparison_rows(scored[::3], ["internal"])
    assert all(row[-1].startswith(FITTED_ONLY) for row in fitted)
    assert comparison_rows(scored[:3], ["internal"]) == []


def test_an_evaluation_of_an_earlier_version_has_its_scores_and_no_interval(scored):
    old = open_run(scored[0].path)
    kept = details.read(old.results, "internal")
    details.remove(old.results, "internal")
    try:
        (row,) = interval_rows([old], ["internal"])
        assert row[3] == f"{old.evaluations['internal'].scores('all')['miou_present']:.4f}"
        assert row[-2] == "evaluated by an earlier version"
        assert comparison_rows([old, scored[3]], ["internal"]) == []
        assert confidence_rows([old], ["internal"]) == once_rows([old], ["internal"]) == []
    finally:
        details.write(old.results, "internal", kept, old.evaluations["internal"].confusion)


def test_confidence_is_told_and_why_it_was_not_mended(scored):
    (row,) = confidence_rows(scored[:1], ["internal"])
    assert row[4] == "n/a"
    assert row[-1] == "it was not asked for"
    assert float(row[3]) == pytest.approx(scored[0].details("internal").reliability["all"].ece(), abs=1e-4)
