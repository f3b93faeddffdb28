"""What stands side by side in a report: models of the same patches, a set beside its model's own internal one."""

import shutil
from pathlib import Path

import details
import numpy as np
import pytest
from details import evaluation_of, make_details
from factory import make_dataset
from fakes import Hashed, Nearest, make_run, spec_for, with_predictor
from reports import Sure

from cropseg.core import storage, taxonomy
from cropseg.core.manifest import SPLIT_SCHEMA, open_dataset, write_table
from cropseg.evaluate import EvaluationSet, evaluate_runs
from cropseg.report import beside, claims, depth, panels, sections, statistics, tables
from cropseg.report.content import Bars, Bullets, Grid, Grouped, Matrix
from cropseg.report.paper_tables import paper_tables
from cropseg.runs import open_run
from cropseg.scores import Evaluation, Scope, titles
from cropseg.seeds import sets_of

CLASSES = taxonomy.load("eurocrops10").names


def evaluation(key="internal", right=90, **changes):
    """An evaluation in which every class has IoU ``right / (200 - right)``."""
    n = len(CLASSES)
    matrix = right * np.eye(n, dtype=np.int64) + (100 - right) * np.roll(np.eye(n, dtype=np.int64), 1, axis=1)
    name, _, tta = key.partition("+")
    return details.evaluation(matrix, CLASSES, name, **{"tta": tta, **changes})


def stored(folder, *evaluations, model="net", seed=0):
    run = open_run(make_run(folder / f"{model}{seed}", spec_for(), model=model, seed=seed, loss=None))
    for one in evaluations:
        run.store(one)
    return open_run(run.path)


def sentences(runs):
    (bullets, *_) = [block for block in sections.summary(runs).blocks if isinstance(block, Bullets)]
    return list(bullets.items)


def test_a_score_is_held_against_the_same_seeds_on_internal(tmp_path):
    away = evaluation("unseen_sparse", 60)
    inner = [evaluation(right=right) for right in (90, 50, 40)]
    runs = [stored(tmp_path, one, *([away] if not seed else []), seed=seed) for seed, one in enumerate(inner)]
    (internal, unseen) = sentences(runs)
    assert internal.startswith("internal (all valid pixels): net scores 0.47")
    # Seed 0 alone has 0.82 on internal, and 0.43 on the other set; the mean of the three would make it 0.04 lower.
    assert unseen.startswith("unseen_sparse (all valid pixels): net scores 0.43. net is 0.39 below its own score on")


def test_augmentation_is_held_against_augmentation(tmp_path):
    sets = {"internal": 90, "internal+d4": 70, "unseen": 60, "unseen+d4": 62}
    run = stored(tmp_path, *(evaluation(key, right) for key, right in sets.items()))
    found = {text.split(" ")[0]: text for text in sentences([run])}
    assert "0.39 below its own score on internal," in found["unseen"]
    assert "0.09 below its own score on internal+d4," in found["unseen+d4"]
    assert "its own" not in found["internal"] + found["internal+d4"]
    alone = stored(tmp_path / "alone", evaluation(right=90), evaluation("unseen+d4", 62))
    assert sentences([alone])[1].endswith("net scores 0.45.")


@pytest.mark.parametrize(
    ("right", "said"), [(800, "equal to"), (801, "equal to"), (820, "0.03 above"), (780, "0.03 b")]
)
def test_what_prints_as_nothing_is_neither_above_nor_below(tmp_path, right, said):
    def scaled(key, right):
        one = evaluation(key, 0)
        n = len(CLASSES)
        cells = right * np.eye(n, dtype=np.int64) + (1000 - right) * np.roll(np.eye(n, dtype=np.int64), 1, axis=1)
        return Evaluation(**{**one.__dict__, "confusion": cells})

    run = stored(tmp_path, scaled("internal", 800), scaled("unseen", right))
    assert f". net is {said}" in sentences([run])[1]


def test_a_set_of_crop_pixels_is_held_against_crop_pixels(tmp_path):
    run = stored(tmp_path, evaluation(right=90, protocol="crop"), evaluation("unseen", 60))
    assert sentences([run])[1].endswith("its own score on internal, both over labelled crop pixels.")


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """One dataset under two splits, a model of each, scored on its own test part and one set that both share."""
    folder = tmp_path_factory.mktemp("leaky")
    own = make_dataset(folder / "own", n=10, size=16)
    ids = own.manifest["id"].to_pylist()
    parts = ["test"] * 3 + ["val"] * 2 + ["train"] * 5
    rows = [{"id": one, "part": part, "group": one} for one, part in zip(ids, parts, strict=True)]
    write_table(own.root / "splits" / "random.parquet", rows, SPLIT_SCHEMA)
    own = open_dataset(own.root)
    away = make_dataset(
        folder / "away", n=4, size=16, parts={"train": 0.0, "val": 0.0, "test": 1.0}, name="away", seed=4
    )
    sets = [EvaluationSet("internal", None, None), EvaluationSet("away", str(away.root), "location")]
    found = []
    for split, kind in (("location", Nearest), ("random", Hashed)):
        spec = spec_for(own, split=split, patch_size=16)
        run = open_run(make_run(folder / split, spec, own, model="net", seed=0, split=split))
        evaluate_runs([with_predictor(run, kind(spec))], sets)
        found.append(with_predictor(open_run(run.path), Sure(spec)))
    return found


BOTH = ["internal (split location)", "internal (split random)"]


def test_sets_of_one_name_and_other_patches_are_named_apart(leaky):
    assert list(sets_of(leaky).values()) == [*BOTH, "away"]
    assert list(sets_of(leaky, ["away", "internal"]).values()) == ["away", *BOTH]
    assert list(sets_of(leaky[:1]).values()) == ["internal", "away"]


def test_what_is_printed_after_evaluating_tells_them_apart(leaky, monkeypatch, tmp_path):
    tables, copies = {}, []
    for run in leaky:
        copied = open_run(shutil.copytree(run.path, tmp_path / run.path.name))
        copies.append(with_predictor(copied, Nearest(run.spec)))
    monkeypatch.setattr("cropseg.evaluate.table", lambda title, columns, rows: tables.update({title: [*rows]}))
    evaluate_runs(copies, [EvaluationSet("internal", None, None)])
    assert list(dict.fromkeys(row[1] for row in tables["Scores"])) == BOTH


def test_models_of_other_patches_are_not_ranked(leaky):
    first, second, away = sentences(leaky)
    assert first.startswith("internal (split location) (all valid pixels): net (location) scores ")
    assert second.startswith("internal (split random) (all valid pixels): net (random) scores ")
    assert "highest" not in first + second
    assert "highest" in away
    assert "its own score on internal (split location)," in away
    (bars,) = [block for block in sections.summary(leaky).blocks if isinstance(block, Bars)]
    assert [(one.name, len(one.bars)) for one in bars.glances] == [(BOTH[0], 1), (BOTH[1], 1), ("away", 2)]
    assert [row[0] for row in bars.table.rows] == [*BOTH, "away", "away"]


def test_tables_hold_models_of_the_same_patches_alone(leaky):
    (grouped,) = [block for block in sections.scores(leaky).blocks if isinstance(block, Grouped)]
    assert [(group.name, len(group.rows)) for group in grouped.groups] == [(BOTH[0], 2), (BOTH[1], 2), ("away", 4)]
    assert "2 patches" in grouped.groups[0].note
    assert "3 patches" in grouped.groups[1].note
    assert [row[0] for row in tables.scores(leaky).rows[::2]] == [*BOTH, "away", "away"]
    grids = [block.table for block in sections.classes(leaky).blocks if isinstance(block, Grid)]
    assert [one.title for one in grids] == [f"Classes on {name}" for name in (*BOTH, "away")]
    for run, one in zip(leaky, grids, strict=False):
        support = run.evaluations["internal"].scores("all")["support"]
        assert [row[1] for row in one.rows] == [f"{count:,}" for count in support]
        assert len(one.columns) == 4
        assert f"{run.evaluations['internal'].patches} patches" in one.note
    matrices = [block.title for block in sections.confusion(leaky).blocks if isinstance(block, Matrix)]
    assert matrices[:2] == [
        f"Figure 4. Confusion of net ({one}) on internal (split {one})" for one in ("location", "random")
    ]
    assert [row[0] for row in claims.table(leaky).rows] == [*BOTH, "away", "away"]


def test_caveats_of_one_model_name_it(leaky):
    (shared,) = [one.note for one in (tables.classes(leaky, on, name) for on, name in sets_of(leaky).items())][-1:]
    assert shared.count("Simulated: ") == 1
    runs = [
        Evaluation(**{**run.evaluations["away"].__dict__, "shared_ground": share})
        for run, share in zip(leaky, (0.0, 0.5), strict=True)
    ]
    shown = [type("OnSet", (), {"model": name, "evaluations": (one,)}) for name, one in zip("ab", runs, strict=True)]
    assert "ground shared with training: 50% of the patches (b)" in tables.caveats(shown)


def test_statistics_are_of_the_same_patches(leaky):
    titles = [one.title for part in (depth.intervals, depth.parcels, depth.drops) for one in part(leaky)]
    for name in BOTH:
        assert f"IoU of the classes with intervals, {name}" in titles
        assert f"Parcels of {name} by majority" in titles
        assert f"Drop from {name} to away" in titles
    for table in depth.breakdowns(leaky):
        assert all(one.title.startswith("net (") for one in table.columns if "net" in one.title)
        if table.title.startswith(BOTH[0]):
            assert not any("random" in one.title for one in table.columns)
    assert statistics.section(leaky).blocks


def test_panels_show_each_model_on_its_own_patches(leaky):
    found = panels.galleries(leaky, None, 1)
    assert [one.name for one in found] == [*BOTH, "away"]
    for gallery, names in zip(found, (("location",), ("random",), ("location", "random")), strict=True):
        captions = " ".join(picture.caption for figure in gallery.chosen for picture in figure.pictures)
        assert [name for name in ("location", "random") if f"net ({name})" in captions] == list(names)
    headings = [getattr(block, "text", "") for block in beside.maps(found, seeds=False).blocks]
    assert f"Figure 5. Patches of {BOTH[1]}" in headings


def test_the_papers_tables_tell_patches_apart(leaky):
    found = {one.number: one.table for one in paper_tables(leaky)}
    assert [row[0] for row in found[9].rows][:2] == BOTH
    assert [row[3] for row in found[9].rows][:2] == ["2", "3"]
    titles = [one.title for one in found[10].columns]
    for name, run in zip(("location", "random"), leaky, strict=True):
        own = f"net ({name}), one seed (simulated), on internal (split {name})"
        assert f"{own}: IoU" in titles
        assert own in [row[0] for row in found[11].rows]
        at = titles.index(f"ours: support, internal (split {name})")
        support = run.evaluations["internal"].scores("all")["support"]
        assert [row[at] for row in found[10].rows[: len(CLASSES)]] == [f"{count:,}" for count in support]
    for number in (10, 11):
        assert f"{BOTH[0]} and {BOTH[1]} are not the same patches" in found[number].note
    assert "not the same patches" not in found[12].note
    assert all(len(row) == len(table.columns) for table in found.values() for row in table.rows)


def test_the_papers_cross_dataset_tables_have_a_row_for_each(tmp_path):
    sets = {"a": {}, "b": {"manifest_digest": "b" * 64}}
    runs = [
        stored(tmp_path, evaluation("dacia5", 60 + i, **changes), evaluation("pastis", 50), model=model)
        for i, (model, changes) in enumerate(sets.items())
    ]
    found = {one.number: one.table for one in paper_tables(runs)}
    told = {row[1]: row[2:] for row in found[14].rows if row[0] == "wheat"}
    assert told["a, one seed, on dacia5 (dacia500)"][0] == "0.4286"
    assert told["b, one seed, on dacia5 (bbbbbbbb)"][0] == f"{61 / 139:.4f}"
    rows = [row[1] for row in found[13].rows if row[0].startswith("DACIA5, labelled") and "paper" not in row[1]]
    assert rows == ["b, one seed, on dacia5 (bbbbbbbb)", "a, one seed, on dacia5 (dacia500)"]
    assert "dacia5 (bbbbbbbb) and dacia5 (dacia500) are not the same patches" in found[13].note


def test_a_lost_table_costs_its_set_alone(tmp_path):
    details = make_details()
    run = open_run(make_run(tmp_path / "r", spec_for(), model="net", seed=0, loss=None))
    for key in ("internal", "away"):
        run.store(evaluation_of(details, key), details)
    (run.results / "away.patches.parquet").unlink()
    run = open_run(run.path)
    notes = {one.title: one.note for one in depth.breakdowns([run])}
    assert "evaluate again" in notes["Parts of away"]
    assert "internal by country" in notes
    assert statistics.section([run]).blocks
    assert storage.read_json(Path(run.results) / "away.json")["set"] == "away"


def test_no_two_sets_of_patches_have_one_title():
    scopes = [Scope.of(one) for one in (evaluation(), evaluation(classes=CLASSES[::-1]), evaluation(split="random"))]
    assert len(set(titles(scopes))) == 3
    assert titles(scopes[:1]) == ["internal"]
