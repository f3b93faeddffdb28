"""Silent errors: each wrong dataset is wrong in what it says and in nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from embedded import REPO, tiny_data
from factory import make_dataset

from cropseg.core.errors import InputError
from cropseg.core.manifest import open_dataset


@pytest.fixture
def wrong(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))
    import silent_errors

    return silent_errors


@pytest.fixture
def source(wrong, tmp_path):
    make_dataset(tmp_path / "embedded", n=30, nodata=False)
    return wrong.Source(tmp_path, "embedded")


def pairs(source, change, parts=("test",)):
    right = {patch.row["id"]: patch for patch in source.patches(parts)}
    return right, list(change(source, source.patches(parts)))


def test_a_gap_is_the_same_pixels_whether_read_rightly_or_wrongly(wrong, source):
    right, empty = pairs(source, wrong.right_gap)
    _, filled = pairs(source, wrong.zero_gap)
    for one, other in zip(empty, filled, strict=True):
        gone = (one.image == 0).all(axis=0)
        assert 0.2 < gone.mean() < 0.4
        assert (other.image[:, gone] == 1).all()
        assert (other.image[:, ~gone] == right[one.row["id"]].image[:, ~gone]).all()
        assert (one.mask == right[one.row["id"]].mask).all()


def test_label_noise_changes_whole_parcels_to_another_crop(wrong, source):
    right, noisy = pairs(source, wrong.label_noise(0.5), ("train", "val", "test"))
    changed = total = 0
    for patch in noisy:
        before = right[patch.row["id"]].mask
        for number in np.unique(patch.parcels[before > 0]):
            here = (patch.parcels == number) & (before > 0) & (before != 255)
            if number and here.any():
                assert len(np.unique(patch.mask[here])) == 1
                total += 1
                changed += patch.mask[here][0] != before[here][0]
        assert (patch.mask[before == 0] == 0).all()
        assert not np.isin(patch.mask[before > 0], [0, 255]).any()
    assert 0.3 < changed / total < 0.7
    again = pairs(source, wrong.label_noise(0.5), ("train", "val", "test"))[1]
    assert all((one.mask == other.mask).all() for one, other in zip(noisy, again, strict=True))
    assert all((one.mask == right[one.row["id"]].mask).all() for one in pairs(source, wrong.label_noise(0.0))[1])


def test_smaller_windows_hold_the_same_pixels_at_the_same_places(wrong, source, tmp_path):
    right, small = pairs(source, wrong.smaller_windows(8))
    assert len(small) == 16 * len(right)
    assert {patch.place for patch in small} == {patch.place for patch in right.values()}
    assert sum(patch.image.astype(int).sum() for patch in small) == sum(
        patch.image.astype(int).sum() for patch in right.values()
    )
    root = wrong.write(source, tmp_path / "small", iter(small), 8)
    written = open_dataset(root)
    assert written.spec.patch_size == 8
    assert len(written.parts("location")["test"]) == len(small)
    assert written.image(0).shape[1:] == (8, 8)
    digest = written.digest
    assert open_dataset(wrong.write(source, root, iter(()))).digest == digest  # a finished one is left as it is


def test_leaking_moves_every_second_date_and_keeps_the_training_parts_size(wrong, source):
    def dated(patches):  # three dates of each place
        for patch in patches:
            subset, _, product, cut = patch.row["id"].split("/")
            yield replace(patch, row={**patch.row, "id": f"{subset}/roi/{product}/{int(cut.split('_')[0]) // 96}_0"})

    parts = ("train", "val", "test")
    before = list(dated(source.patches(parts)))
    after = list(wrong.leaked(source, iter(before)))
    count = [{part: sum(one.part == part for one in some) for part in parts} for some in (before, after)]
    assert count[0]["train"] == count[1]["train"]
    moved = {one.row["id"] for one in before if one.part == "test"} & {
        one.row["id"] for one in after if one.part == "train"
    }
    assert moved
    tested = [one for one in after if one.part == "test"]
    trained = {one.place for one in after if one.part == "train"}
    assert tested
    assert all(one.place in trained for one in tested)
    assert {one.row["id"] for one in wrong.not_leaked(source, iter(before))} == {one.row["id"] for one in tested}


def test_a_cost_is_written_with_its_interval_and_a_star_if_it_is_told_from_none(wrong):
    import what_breaks

    row = {"cost": 0.0281, "low": 0.0214, "high": 0.0355, "p": 0.001, "holm": 0.03}
    assert what_breaks.cell(row) == "2.8 [2.1, 3.5]*"
    assert what_breaks.cell({**row, "holm": 0.06, "cost": -0.0001, "low": -0.01}) == "0.0 [-1.0, 3.5]"
    assert what_breaks.cell({**row, "low": None, "high": None, "p": None}) == "2.8 (too few places)"


@pytest.mark.slow
def test_reading_and_labelling_again_rightly_gives_the_dataset_back(wrong):
    source = wrong.Source(tiny_data(), "embedded_unseen", ("prepare_as=tiny",))
    patches = list(source.patches(("test",)))[:6]
    for patch, same, shifted, swapped, wide in zip(
        patches,
        wrong.read_again()(source, iter(patches)),
        wrong.half_a_pixel(source, iter(patches)),
        wrong.swapped_colours(source, iter(patches)),
        wrong.larger_windows(128)(source, iter(patches)),
        strict=True,
    ):
        assert (same.image == patch.image).all()
        assert 0 < (shifted.mask != patch.mask).mean() < 0.2
        assert (swapped.image[[2, 1, 0]] == patch.image[:3]).all()
        assert (swapped.image[3:] == patch.image[3:]).all()
        assert (wide.image[:, 32:-32, 32:-32] == patch.image).all()
        assert (wide.mask[32:-32, 32:-32] == patch.mask).all()
        assert (wide.mask != 255).sum() == (patch.mask != 255).sum()
    forgotten = next(wrong.read_again(boa_offset="ignore")(source, iter(patches)))
    assert np.median(forgotten.image.astype(int) - patches[0].image) == 1000
    chosen = {one.row["id"] for one in wrong.chosen_by_scl(wrong.AlignedProduct)(source, iter(patches))}
    assert {patch.row["id"] for patch in patches} <= chosen


@pytest.mark.slow
def test_the_script_runs_is_resumed_and_scores_as_evaluate_does(wrong, tmp_path, capsys):
    import what_breaks

    from cropseg.evaluate import EvaluationSet, evaluate
    from cropseg.runs import open_run

    of = {one.name: replace(one, models=(what_breaks.FOREST,), trained=()) for one in what_breaks.ERRORS}
    chosen = [of["swapped_colours"], replace(of["leaked"], trained=(what_breaks.FOREST,))]
    given = ["--fast", "--data", str(tiny_data()), "--work", str(tmp_path), "--write", str(tmp_path / "page.md")]
    (tmp_path / "page.md").write_text("\n".join(["before", *what_breaks.MARKS, "after"]))
    what_breaks.main(given, chosen)
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("before")
    assert page.endswith("after")
    assert "red and blue exchanged" in page
    rows = json.loads((tmp_path / "costs.json").read_text())
    assert {(row["error"], row["where"], row["set"]) for row in rows} == {
        ("swapped_colours", "evaluation", "embedded"),
        ("swapped_colours", "evaluation", "embedded_unseen"),
        ("leaked", "both", "embedded"),
    }
    run = open_run(next(iter(Path(tmp_path / "runs").glob("right_forest/*/spec.json"))).parent)
    (stored,) = (tmp_path / "scored").glob(f"right_forest_*/{tiny_data().name}/embedded.json")
    total = np.sum([np.array(one) for one in json.loads(stored.read_text()).values()], axis=0)
    known = evaluate(run.predictor, EvaluationSet("internal", str(tiny_data() / "embedded"), "location"))
    assert (total == known.confusion).all()
    begun = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*/spec.json")}
    what_breaks.main(given, chosen)
    assert begun == {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*/spec.json")}
    # What was scored is shown without making or training anything, and what was not is left out.
    stored.unlink()
    capsys.readouterr()
    what_breaks.main([*given, "--so-far"], chosen)
    assert "2 costs of" not in (said := " ".join(capsys.readouterr().err.split()))
    assert "1 costs of" in said
    assert "embedded_unseen" not in (tmp_path / "page.md").read_text()
    assert not stored.exists()
    with pytest.raises(InputError, match="nothing was measured yet"):
        what_breaks.main([*given[:3], "--so-far", "--work", str(tmp_path / "empty")], chosen)
