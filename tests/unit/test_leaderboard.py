"""The leaderboard from stored matrices alone: what stands together, what is told apart, and what is refused by name."""

import csv
import io
import os
import subprocess
import sys
import time

import details
import numpy as np
import pytest
import yaml
from fakes import spec_for

from cropseg import metrics
from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError
from cropseg.leaderboard import as_table, rank, show, to_csv, value
from cropseg.runs import open_run, seed_groups
from cropseg.stored import find, group, read

CLASSES = ("background", "maize", "wheat")


def evaluation(name="internal", right=100, **changes):
    confusion = np.full((3, 3), 10) + np.eye(3, dtype=np.int64) * right
    return details.evaluation(confusion, CLASSES, name, **{"manifest_digest": "a" * 64, "patches": 3, **changes})


def run(folder, *evaluations, model="net", seed=0, lr=0.1):
    """A run's folder: config, choices and stored evaluations; no weights."""
    spec = spec_for().to_dict()
    storage.write_json(folder / "spec.json", spec)
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "model": {"lr": lr}, "run_dir": "x"}))
    hydra = {"hydra": {"runtime": {"choices": {"model": model}}}}
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(hydra))
    for one in evaluations:
        storage.write_json(folder / "evaluation" / f"{one.key}.json", one.to_dict())
    return folder


def board(folder, *paths, **options):
    return rank([read(path) for path in find(paths or [folder])], **options)


def test_seeds_stand_together_with_mean_and_range(tmp_path):
    evaluations = [evaluation(right=right) for right in (50, 80, 130)]
    for seed, one in enumerate(evaluations):
        run(tmp_path / f"net{seed}", one, seed=seed)
    run(tmp_path / "other", evaluation(right=10), model="forest")
    places, rows = board(tmp_path)
    assert [row.label for row in rows] == ["net", "forest"]
    scores = [metrics.scores(one.confusion)["miou_present"] for one in evaluations]
    spread = rows[0].cells[places[0]].spread
    assert (spread.mean, spread.low, spread.high) == pytest.approx((np.mean(scores), min(scores), max(scores)))
    table = as_table(places, rows, "miou_present")
    assert table.rows[0][1] == "0, 1, 2"
    assert table.rows[0][-1] == ""
    assert table.rows[1][-1] == "one seed"
    _, single = board(tmp_path, seeds=False)
    assert [row.label for row in single] == ["net (net2)", "net (net1)", "net (net0)", "forest"]


def test_groups_are_those_of_the_report(tmp_path):
    for name, seed, lr in (("a", 0, 0.1), ("b", 1, 0.1), ("c", 1, 0.1), ("d", 0, 0.2), ("e", 2, 0.2)):
        run(tmp_path / name, evaluation(), seed=seed, lr=lr)
    paths = find([tmp_path])
    found = [[one.name for one in members] for members in group([read(path) for path in paths])]
    assert found == [[one.name for one in members] for members in seed_groups([open_run(path) for path in paths])]
    assert found == [["a", "b"], ["c"], ["d", "e"]]


def test_sets_of_one_name_and_other_patches_classes_or_protocols_are_told_apart(tmp_path):
    for name, changes in (
        ("a", {}),
        ("b", {"manifest_digest": "b" * 64}),
        ("c", {"classes": ("other", "maize", "wheat")}),
        ("d", {"protocol": "crop"}),
        ("e", {"part": "val"}),
    ):
        run(tmp_path / name, evaluation(**changes), model=name)
    places, rows = board(tmp_path)
    assert len(places) == 5
    assert all(len(row.cells) == 1 for row in rows)
    heads = [column.title for column in as_table(places, rows, "miou").columns][2:-1]
    assert len(set(heads)) == 5
    assert any("bbbbbbbb" in head for head in heads)
    assert any("labelled crop pixels" in head for head in heads)


def test_seeds_of_other_patches_are_not_averaged(tmp_path):
    run(tmp_path / "a", evaluation(right=50), seed=0)
    run(tmp_path / "b", evaluation(right=90, manifest_digest="b" * 64), seed=1)
    places, (row,) = board(tmp_path)
    assert [row.cells[place].seeds for place in places] == [1, 1]
    assert all("1 of 2 seeds" in row.cells[place].marks for place in places)


def test_marks_stand_beside(tmp_path):
    run(tmp_path / "a", evaluation(simulated=True), evaluation("away", patch_size=64, shared_ground=0.25, tta="d4"))
    run(tmp_path / "b", evaluation(simulated=True, shared_ground=None), model="forest")
    table = as_table(*board(tmp_path), "miou")
    internal, away = table.columns[2:4]
    assert internal.title == "internal"
    assert "simulated" in internal.rule
    assert away.title == "away+d4"
    assert "window 64 px, trained on 32 px" in away.rule
    assert "ground shared with training: 25% of the patches" in away.rule
    by_model = {row[0]: row for row in table.rows}
    assert by_model["net"][-1] == "one seed"
    assert by_model["forest"][-1] == "leakage not known; one seed"
    assert by_model["forest"][3] == ""


def test_score_protocol_sort_and_sets(tmp_path):
    lopsided = np.array([[90, 5, 5], [0, 10, 30], [0, 1, 9]])
    run(tmp_path / "a", evaluation(confusion=lopsided), evaluation("away", protocol="crop", right=5), model="a")
    run(tmp_path / "b", evaluation(right=1), evaluation("away", protocol="crop", right=60), model="b")
    wanted = metrics.scores(lopsided, "crop")
    places, rows = board(tmp_path, protocol="crop", score="iou:wheat")
    by_label = {row.label: row for row in rows}
    assert by_label["a"].cells[places[0]].spread.mean == pytest.approx(wanted["iou"][2])
    places, rows = board(tmp_path)
    assert [place.protocol for place in places] == ["all", "crop"]
    places, rows = board(tmp_path, protocol="all")
    assert "unlabelled ground counted as background" in rows[0].cells[places[1]].marks
    assert [row.label for row in board(tmp_path, sort="away")[1]] == ["b", "a"]
    assert [row.label for row in board(tmp_path, sort="name")[1]] == ["a", "b"]
    assert [place.key for place in board(tmp_path, sets=["away"])[0]] == ["away"]
    assert np.isnan(value(evaluation(), "all", "iou:rice"))
    for wrong in ({"score": "f1"}, {"score": "iou"}, {"score": "miou:maize"}, {"protocol": "some"}, {"sort": "else"}):
        with pytest.raises(ConfigError):
            board(tmp_path, **wrong)
    with pytest.raises(ConfigError, match="choose from away, internal"):
        board(tmp_path, sets=["nowhere"])


@pytest.mark.parametrize(("paths", "sets"), [([], None), (["x"], [])])
def test_a_list_that_names_nothing_is_refused(paths, sets):
    with pytest.raises(ConfigError, match="names nothing"):
        show(paths, sets=sets)


def test_models_and_maps_that_are_no_runs_are_listed_by_their_folder(tmp_path):
    run(tmp_path / "runs" / "a", evaluation())
    storage.write_json(tmp_path / "their.evaluation" / "internal.json", evaluation(right=7).to_dict())
    storage.write_json(tmp_path / "their.evaluation" / "internal.detail.json", {"clusters_are": "place"})
    storage.write_json(tmp_path / "their.evaluation" / "validation.reliability.json", {})
    (tmp_path / "their.onnx").touch()
    storage.write_json(tmp_path / "given" / "internal.json", evaluation(right=9).to_dict())
    storage.write_json(tmp_path / "given" / "notes.json", {"anything": 1})
    _, rows = board(tmp_path, tmp_path / "runs", tmp_path / "their.onnx", tmp_path / "given")
    assert [row.label for row in rows] == ["net", "given", "their"]
    _, again = board(tmp_path, tmp_path, tmp_path / "runs" / "a", tmp_path / "runs" / "a" / "evaluation")
    assert [row.label for row in again] == ["net", "their"]


def test_a_map_with_a_legend_of_its_own_is_a_column_of_its_own(tmp_path):
    run(tmp_path / "a", evaluation("parcels"))
    folded = evaluation("parcels", classes=("other", "maize"), confusion=np.eye(2, dtype=np.int64), patch_size=0)
    content = {**folded.to_dict(), "legend": "worldcereal_maize", "parcels": [[1, 0], [0, 1]], "shared_ground": None}
    storage.write_json(tmp_path / "worldcereal.evaluation" / "parcels.json", content)
    table = as_table(*board(tmp_path), "miou")
    assert [column.title for column in table.columns[2:4]] == [
        "parcels (3 classes with background, wheat)",
        "parcels (2 classes with other)",
    ]
    by_model = {row[0]: row for row in table.rows}
    assert by_model["worldcereal"][2:4] == ("", "1.0000")


def test_latest_is_the_run_that_finished_last(tmp_path):
    run(tmp_path / "a", evaluation(), model="a")
    run(tmp_path / "b", evaluation(), model="b")
    os.utime(tmp_path / "a" / "spec.json", (1, 1))
    assert find(["latest"], tmp_path) == [tmp_path / "b"]


def test_jobs_of_a_sweep_are_found_below_it(tmp_path, capsys):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").touch()
    for seed in range(2):
        run(tmp_path / "sweep" / f"{seed}_net", evaluation(), seed=seed)
    (tmp_path / "sweep" / "2_net" / ".hydra").mkdir(parents=True)
    _, (row,) = board(tmp_path)
    assert [entry.name for entry in row.entries] == ["sweep/0_net", "sweep/1_net"]
    assert "1 of 3 jobs have not finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a stored evaluation"),
        ('{"confusion": [[1]]}', "not a stored evaluation"),
        ({"confusion": [[1, 2], [3, 4]]}, "does not fit the classes"),
        ({"confusion": [[-1, 0, 0], [0, 0, 0], [0, 0, 0]]}, "negative counts"),
        ({"protocol": "some"}, "no protocol of ours"),
        ({"confusion": [[0.5, 0, 0], [0, 0, 0], [0, 0, 0]]}, "whole pixel counts"),
        ({"dataset": None}, "dataset"),
        ({"classes": [1, 2, 3]}, "classes"),
        ({"shared_ground": "much"}, "shared_ground"),
        ({"sharing": {"years": [2021]}}, "sharing.same_dataset"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, said):
    run(tmp_path / "a", evaluation())
    if isinstance(content, dict):
        storage.write_json(tmp_path / "a" / "evaluation" / "away.json", {**evaluation().to_dict(), **content})
    else:
        (tmp_path / "a" / "evaluation" / "away.json").write_text(content)
    with pytest.raises(InputError, match=said) as caught:
        board(tmp_path)
    assert "away.json" in str(caught.value)


def test_broken_configs_and_missing_folders_are_named(tmp_path):
    run(tmp_path / "a", evaluation())
    (tmp_path / "a" / ".hydra" / "config.yaml").write_text("a: [")
    with pytest.raises(InputError, match=r"config.yaml is no YAML"):
        board(tmp_path)
    (tmp_path / "a" / ".hydra" / "config.yaml").write_text("just words")
    with pytest.raises(InputError, match=r"config.yaml is no config"):
        board(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find([tmp_path / "gone"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no stored evaluation"):
        find([tmp_path / "empty"])


def test_it_is_printed_and_written(tmp_path, capsys):
    run(tmp_path / "runs" / "a", evaluation(simulated=True, right=50), seed=1)
    run(tmp_path / "runs" / "b")
    show([tmp_path / "runs"], out=tmp_path / "board.md")
    out, err = capsys.readouterr()
    assert "Leaderboard: mIoU present" in out
    assert "1 runs have not been evaluated and are left out: b" in err
    assert "measures the software" in err
    assert "| net | 1 | " in (tmp_path / "board.md").read_text()
    (line,) = csv.DictReader(io.StringIO((tmp_path / "board.csv").read_text()))
    assert float(line["mean"]) == metrics.scores(evaluation(right=50).confusion)["miou_present"]
    assert (line["set"], line["protocol"], line["n"], line["beside"]) == ("internal", "all", "1", "simulated; one seed")
    with pytest.raises(InputError, match="no run has a stored evaluation"):
        show([tmp_path / "runs" / "b"])


def test_a_class_that_a_set_lacks_is_left_empty_in_the_file_and_one_that_all_lack_refused(tmp_path):
    run(tmp_path / "a", evaluation(), evaluation("paddies", classes=("background", "maize", "rice")))
    first, second = csv.DictReader(io.StringIO(to_csv(*board(tmp_path, score="iou:rice"), "iou:rice")))
    assert first["mean"] == ""
    assert float(second["mean"]) > 0
    with pytest.raises(ConfigError, match="choose from background, maize, wheat, rice"):
        board(tmp_path, score="iou:rye")


def test_thousands_of_files_are_read_in_seconds_and_without_torch(tmp_path):
    one = run(tmp_path / "runs" / "0", *(evaluation(f"s{i}") for i in range(20)))
    begun = time.process_time()
    for _ in range(10):
        read(one)
    assert time.process_time() - begun < 2  # 200 files; a tenth of a second on a quiet machine
    code = (
        "import sys, cropseg.leaderboard as _; sys.exit(bool({'torch', 'lightning', 'rasterio'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
