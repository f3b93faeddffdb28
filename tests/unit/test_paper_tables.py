"""Tables 1-14 in the paper's form, on runs as strangers may have them."""

import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from factory import make_dataset
from fakes import Hashed, Majority, Nearest, make_run, spec_for, with_predictor

from cropseg.core import storage
from cropseg.evaluate import EvaluationSet, evaluate_runs
from cropseg.report import latex, paper
from cropseg.report.paper_tables import paper_tables
from cropseg.report.tables import Column, Table
from cropseg.runs import open_run, open_runs

NET = {"net": {"_target_": "cropseg.models.unet4gn.UNet4LevelsGN", "base": 8, "groups": 4, "bottleneck_dropout": 0.1}}
FOREST = {
    "forest": {"class": "RandomForestClassifier", "n_estimators": 100, "max_samples": 0.8},
    "context": ["B04", "B08"],
    "windows": [5, 11],
    "sampling": {"pixels": [10, 20]},
}
LOSS = {
    "_target_": "cropseg.losses.WeightedSum",
    "terms": {
        "ce": {"_target_": "cropseg.losses.CrossEntropy", "weights": [0.25, 1, 1.5, 0.75, 1, 3, 2.5, 1.5, 2, 3, 1]},
        "dice": {"_target_": "cropseg.losses.Dice", "exclude": [0]},
        "lovasz": {"_target_": "cropseg.losses.Lovasz"},
    },
    "weights": {"ce": 1.0, "dice": 0.4, "lovasz": 0.5},
}
TEST_ONLY = {"train": 0.0, "val": 0.0, "test": 1.0}
HARDWARE = {"device": "cpu", "processes": 1, "cpu": "Some CPU", "cpu_threads": 4, "ram_gib": 8.0, "seconds": 60.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two seeds of a network and one forest, evaluated on ``internal`` and, the network alone, on a DACIA5."""
    root = tmp_path_factory.mktemp("paper")
    own = make_dataset(root / "own", n=10, size=16, nodata=True, ignored=True)
    away = make_dataset(root / "away", n=3, size=16, parts=TEST_ONLY, protocol="crop", name="dacia5", simulated=False)
    net, forest = spec_for(own, patch_size=16, model=NET), spec_for(own, patch_size=16, model=FOREST)
    config = {"loss": LOSS, "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.003}, "epochs": 11}
    internal = EvaluationSet("internal", None, None)
    dacia5 = EvaluationSet("dacia5", str(away.root), "location", protocol="crop")
    for seed, predictor in enumerate((Nearest(net), Majority(net, 3))):
        path = make_run(root / "runs" / f"{seed}_net", net, own, model="unet4gn_small", seed=seed, **config)
        weights = {"a": torch.zeros(3, 2), "norm.running_mean": torch.zeros(7)}
        torch.save(weights, path / "weights.pt")
        storage.write_json(path / "hardware.json", {**HARDWARE, "epochs": 2 + seed})
        evaluate_runs([with_predictor(open_run(path), predictor)], [internal, dacia5])
    path = make_run(root / "runs" / "2_forest", forest, own, model="rf_spatial", seed=0)
    evaluate_runs([with_predictor(open_run(path), Hashed(forest))], [internal])
    return root


@pytest.fixture(scope="module")
def runs(folder):
    return [open_run(path) for path in sorted((folder / "runs").iterdir())]


@pytest.fixture(scope="module")
def tables(runs):
    return paper_tables(runs)


def column(table, title):
    (index,) = [i for i, one in enumerate(table.columns) if one.title == title]
    return {row[0]: row[index] for row in table.rows}


def check(found):
    assert [one.number for one in found] == list(range(1, 15))
    for one in found:
        assert one.table.rows
        assert one.table.title == f"Table {one.number}. {one.caption}"
        assert all(len(row) == len(one.table.columns) for row in one.table.rows)
        assert all(isinstance(cell, str) for row in one.table.rows for cell in row)
        titles = [column.title for column in one.table.columns]
        assert len(set(titles)) == len(titles)
        for text in (one.table.to_markdown(), one.note):
            assert "nan" not in text.casefold().replace("finance", "")
        check_latex(one.table.to_latex(), len(one.table.columns))


def check_latex(text, columns):
    """Braces and environments are closed, and each row has the cells that the layout has."""
    plain = re.sub(r"\\[\\&%$#_{}]", lambda found: r"\\" if found.group() == r"\\" else "", text)
    assert plain.count("{") == plain.count("}")
    opened = []
    for word, name in re.findall(r"\\(begin|end){(\w+)}", text):
        if word == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    body = text[text.index(r"\endhead") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert rows
    assert all(len(re.findall(r"(?<!\\)&", row)) == columns - 1 for row in rows)
    assert not re.search(r"(?<!\\)[#_%]", text)


def test_all_fourteen_are_there(tables):
    check(tables)


def test_no_runs_make_no_tables():
    assert paper_tables([]) == []


def test_the_papers_figures_stand_unchanged(tables):
    for title, index in (("paper: IoU", 1), ("paper: class acc.", 2), ("paper: support", 3)):
        shown = column(tables[9].table, title)
        assert all(shown[row[0]] == row[index] for row in paper.TABLE_10.rows)
    assert column(tables[3].table, "paper") == dict(paper.TABLE_4.rows)
    printed = [row[2:] for row in tables[11].table.rows if row[1] == "paper"]
    assert printed == [row[1:] for row in paper.TABLE_12.rows]
    printed = [row for row in tables[13].table.rows if row[1] == "paper" and row[0] != "oats"]
    assert [(row[0], *row[2:]) for row in printed] == list(paper.TABLE_14.rows)


def test_what_can_be_rebuilt_stands_beside_what_is_printed(tables):
    means = column(tables[9].table, "paper: IoU")
    assert (means["mean (paper: quoted)"], means["mean, and sum of support (paper: rebuilt)"]) == ("0.7665", "0.7665")
    means = column(tables[9].table, "paper: class acc.")
    assert (means["mean (paper: quoted)"], means["mean, and sum of support (paper: rebuilt)"]) == ("0.9072", "0.9071")
    assert means["pixel accuracy (paper: quoted)"] == means["pixel accuracy (paper: rebuilt)"] == "0.8693"
    assert column(tables[9].table, "paper: support")["mean, and sum of support (paper: rebuilt)"] == "435,945,472"
    for figure in ("0.76645", "0.86927", "0.9071", "0.9072", "51,200"):
        assert figure in tables[9].note
    rebuilt = {row[0]: row[3:] for row in tables[12].table.rows if row[1] == "paper, rebuilt"}
    assert rebuilt == {
        "DACIA5, labelled crop pixels": ("0.2383", "0.3277", "0.5509"),
        "PASTIS, labelled crop pixels": ("0.1189", "0.1453", "0.3656"),
    }
    for figure in ("2.6217", "1.3075", "is quoted"):
        assert figure in tables[12].note
    assert "are quoted" in tables[10].note
    assert "are quoted" in tables[11].note


def test_our_scores_are_those_of_the_stored_matrices_over_seeds(tables, runs):
    found = [run.evaluations["internal"].scores("all") for run in runs]
    net = [one["iou"][3] for one in found[:2]]
    expected = f"{np.mean(net):.4f} ({min(net):.4f} … {max(net):.4f})"
    assert column(tables[9].table, "unet4gn_small, 2 seeds (simulated): IoU")["wheat"] == expected
    (row,) = [row for row in tables[10].table.rows if row[1] == "rf_spatial"]
    assert row[-2:] == (f"{found[2]['miou']:.4f}", f"{found[2]['pixel_accuracy']:.4f}")
    assert column(tables[9].table, "ours: support")["wheat"] == f"{found[0]['support'][3]:,}"
    crop = [run.evaluations["dacia5"].scores("crop")["pixel_accuracy"] for run in runs[:2]]
    rows = [row for row in tables[12].table.rows if row[0].startswith("DACIA5, labelled") and "unet" in row[1]]
    assert rows[0][-1] == f"{np.mean(crop):.4f} ({min(crop):.4f} … {max(crop):.4f})"
    assert "trained on simulated" in rows[0][1]
    assert "Simulated: measures the software" in tables[9].note


def test_the_other_choice_stands_beside_a_foreign_sets_score(folder, tmp_path):
    shutil.copytree(folder / "runs" / "0_net", tmp_path / "r")
    stored = storage.read_json(tmp_path / "r" / "evaluation" / "dacia5.json")
    other = {**stored, "set": "dacia5_other_offset", "note": "the refused offset"}
    storage.write_json(tmp_path / "r" / "evaluation" / "dacia5_other_offset.json", other)
    found = paper_tables([open_run(tmp_path / "r")])
    check(found)
    rows = {row[0]: row[3:] for row in found[12].table.rows if "unet4gn_small, one seed" in row[1]}
    assert rows["dacia5_other_offset, labelled crop pixels"] == rows["DACIA5, labelled crop pixels"]
    assert "dacia5_other_offset is not in the paper: the refused offset." in found[12].note
    assert not any("dacia5" in cell for row in found[11].table.rows for cell in row)


def test_supports_tell_whether_the_labels_are_the_papers(folder, tmp_path):
    shutil.copytree(folder / "runs" / "0_net", tmp_path / "r")
    assert "those of dacia5 are other than the paper's for maize" in paper_tables([open_run(tmp_path / "r")])[13].note
    stored = storage.read_json(tmp_path / "r" / "evaluation" / "dacia5.json")
    matrix = np.zeros((11, 11), np.int64)
    printed = [paper.value(paper.TABLE_14.row(name)[4]) for name in paper.CLASSES]
    matrix[:, 3] = np.nan_to_num(printed)
    storage.write_json(tmp_path / "r" / "evaluation" / "dacia5.json", {**stored, "confusion": matrix.tolist()})
    assert "those of dacia5 are the paper's, pixel for pixel." in paper_tables([open_run(tmp_path / "r")])[13].note


def test_what_was_not_evaluated_says_so_and_how_to(tables):
    belgium = [row for row in tables[11].table.rows if row[0] == "be_vlg_2021" and row[1] != "paper"]
    assert belgium == [("be_vlg_2021", "unet4gn_small, rf_spatial", "–", *["not evaluated"] * 4)]
    assert "prepare.py region=be_vlg_2021; python prepare.py region=be_wal_2021; " in tables[8].note
    assert "evaluation=[be_vlg_2021,be_wal_2021,pastis]" in tables[8].note
    assert tables[11].note.endswith("No model was evaluated on be_vlg_2021, be_wal_2021; Table 9 tells how to.")
    assert "rf_spatial was not evaluated on dacia5; Table 9" in tables[12].note
    assert ("every class", "rf_spatial", *["not evaluated"] * 4, "–", "–") in tables[13].table.rows
    assert any(row[0] == "pasture" and row[4] == "not evaluated" for row in tables[13].table.rows)
    assert [row[:2] for row in tables[10].table.rows if row[0] == "ours"] == [("ours", "rf_spectral")]
    assert "python train.py model=rf_spectral" in tables[10].note


def test_configuration_and_hardware_are_the_runs_own(tables):
    shown = column(tables[4].table, "unet4gn_small, 2 seeds (simulated)")
    expected = {
        "Model class": "UNet4LevelsGN",
        "Base channels": "8",
        "Trainable parameters": "6",
        "Optimizer": "Adam",
        "Initial learning rate": "0.003",
        "Maximum epochs": "11",
        "Best checkpoint epoch": "2, 2",
        "Cross-entropy weighting": "Class-weighted",
        "Dice weight": "0.4",
        "Dice background": "Excluded",
        "Other terms of the loss": "0.5 · Lovasz",
        "Seeds": "0, 1",
    }
    assert {name: shown[name] for name in expected} == expected
    assert column(tables[4].table, "paper")["Input patch size"] == "256 × 256 (recovered)"
    assert "rf_spatial is a forest" in tables[4].note
    assert "18 features" in tables[4].note
    machine = column(tables[5].table, "unet4gn_small, 2 seeds (simulated)")
    assert machine["CPU"] == "Some CPU"
    assert machine["GPU"] == "none used"
    assert machine["Time per epoch"] == "25 (20 … 30) s"
    assert set(column(tables[5].table, "rf_spatial, one seed (simulated)").values()) == {"not recorded"}
    assert column(tables[3].table, "unet4gn_small, 2 seeds (simulated)") == dict(paper.TABLE_4.rows)
    assert "the weights of the paper" in tables[3].note


def test_taxonomy_and_label_rules_are_held_against_the_paper(tables):
    assert set(column(tables[0].table, "eurocrops10 differs by").values()) == {"nothing"}
    for one in tables[6:8]:
        verdicts = set(column(one.table, "against the paper").values())
        assert verdicts <= {"same", "not in the paper's table"}
    assert "importer/pastis.yaml" in tables[7].note


def test_a_corrected_taxonomy_is_marked_where_it_differs(tmp_path):
    data = make_dataset(tmp_path / "d", n=5, size=16, taxonomy_name="eurocrops10_corrected")
    found = paper_tables([open_run(make_run(tmp_path / "r", spec_for(data), data))])
    check(found)
    marked = column(found[0].table, "eurocrops10_corrected differs by")
    assert marked["maize"] == "also popcorn, genus zea; also excludes fallow"
    assert "without winter rape, oilseed rape; " in marked["rapeseed"]
    assert "does not exclude grape" in marked["rapeseed"]
    assert marked["background"] == "nothing"


def test_labels_are_read_from_the_dataset_that_was_evaluated(folder, tmp_path):
    shutil.copytree(folder / "runs" / "0_net", tmp_path / "r")
    shutil.copytree(folder / "away", tmp_path / "away")
    spec = storage.read_json(tmp_path / "away" / "dataset.json")
    spec["provenance"] = {"rules": {"labels": {"0": "ignored (255)", "1": "wheat", "4": 255, "17": 1}}}
    storage.write_json(tmp_path / "away" / "dataset.json", spec)
    stored = storage.read_json(tmp_path / "r" / "evaluation" / "dacia5.json")
    storage.write_json(tmp_path / "r" / "evaluation" / "dacia5.json", {**stored, "root": str(tmp_path / "away")})
    table = paper_tables([open_run(tmp_path / "r")])[6].table
    assert column(table, "against the paper") | {} == {
        **dict.fromkeys(map(str, range(18)), "differs"),
        **{"0": "not in the paper's table", "1": "same", "4": "same"},
    }
    assert column(table, "ours: class")["17"] == "maize"


def test_a_dataset_that_is_gone_is_a_reason(folder, tmp_path):
    shutil.copytree(folder / "runs" / "0_net", tmp_path / "r")
    config = yaml.safe_load((tmp_path / "r" / ".hydra" / "config.yaml").read_text())
    config["dataset"]["root"] = str(tmp_path / "nowhere")
    (tmp_path / "r" / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    found = paper_tables([open_run(tmp_path / "r")])
    check(found)
    for one in found[1:3]:
        assert any("not available" in row for row in one.table.rows)
        assert "no dataset at" in one.note


def test_a_dataset_made_again_is_not_passed_off_as_the_old_one(folder, tmp_path):
    shutil.copytree(folder / "runs" / "0_net", tmp_path / "r")
    again = make_dataset(tmp_path / "again", n=4, size=16, seed=3)
    config = yaml.safe_load((tmp_path / "r" / ".hydra" / "config.yaml").read_text())
    config["dataset"]["root"] = str(again.root)
    (tmp_path / "r" / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    found = paper_tables([open_run(tmp_path / "r")])
    assert "prepared again since the run was trained" in found[2].note


def test_broken_weights_and_odd_losses_are_not_known(folder, tmp_path):
    shutil.copytree(folder / "runs" / "0_net", tmp_path / "r")
    (tmp_path / "r" / "weights.pt").write_bytes(b"no weights")
    config = yaml.safe_load((tmp_path / "r" / ".hydra" / "config.yaml").read_text())
    config["loss"]["weights"]["dice"] = "${loss.weights.ce}"
    config["loss"]["terms"]["dice"]["exclude"] = "${none}"
    (tmp_path / "r" / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    shown = column(paper_tables([open_run(tmp_path / "r")])[4].table, "unet4gn_small, one seed (simulated)")
    assert shown["Trainable parameters"] == "not known"
    assert shown["Dice weight"] == "${loss.weights.ce}"
    assert shown["Dice background"] == "Included"


def test_two_datasets_of_one_name_are_told_apart(folder, tmp_path):
    again = make_dataset(tmp_path / "again", n=4, size=16, seed=3)
    runs = [open_run(folder / "runs" / "0_net"), open_run(make_run(tmp_path / "r", spec_for(again), again))]
    titles = [one.title for one in paper_tables(runs)[2].table.columns if one.title.endswith(": patches")]
    assert titles == ["paper: patches", "tiny (simulated): patches", f"tiny {again.digest[:8]} (simulated): patches"]


def test_a_run_with_nothing_but_its_spec_is_shown(tmp_path):
    path = make_run(tmp_path / "r", spec_for(simulated=False, loader="cropseg.learners.network.load"))
    shutil.rmtree(path / ".hydra")
    for name in ("validation.json", "metrics.csv"):
        (path / name).unlink()
    found = paper_tables([open_run(path)])
    check(found)
    assert "not known" in column(found[4].table, "r, one seed").values()


def test_another_taxonomy_leaves_the_papers_columns_out_and_says_why(tmp_path):
    classes = [
        {"id": 0, "name": "background", "color": "000000"},
        {"id": 1, "name": "vines & hops", "color": "00ff00", "include": ["vine_yard"]},
        {"id": 2, "name": "rice", "color": "0000ff", "include": ["rice"]},
    ]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"name": "own_3", "classes": classes}))
    data = make_dataset(tmp_path / "d", n=10, size=16, taxonomy_name=str(tmp_path / "own.yaml"))
    run = open_run(make_run(tmp_path / "r", spec_for(data, patch_size=16), data))
    evaluate_runs([with_predictor(run, Nearest(run.spec))], [EvaluationSet("internal", None, None)])
    found = paper_tables(open_runs(str(tmp_path / "r"), tmp_path))
    check(found)
    for number in (1, 3, 4, 10):
        table = found[number - 1].table
        assert not any(one.title.startswith("paper") for one in table.columns)
        assert [row[0] for row in table.rows][:3] == ["background", "vines & hops", "rice"]
    for number in (11, 12, 13, 14):
        table = found[number - 1].table
        assert not any(cell.startswith("paper") for row in table.rows for cell in row)
    for number in (1, 3, 4, 10, 11, 12, 13, 14):
        assert "figures are left out" in found[number - 1].note


def test_latex_shows_any_text_as_it_is():
    assert latex.escape(r"50% & a_b #1 {x} ~ ^ \ $") == (
        r"50\% \& a\_b \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \$"
    )
    assert latex.escape("[a] * --help ---") == "{[}a{]} {*} -{}-help -{}-{}-"
    assert latex.escape("256 × 256 … 1 – 2") == r"256 $\times$ 256 \ldots{} 1 -- 2"
    assert latex.escape("two\nlines\x00") == "two lines "
    assert latex.escape('a "b" `c`') == r"a ''b'' \textasciigrave{}c\textasciigrave{}"
    seven = Table("Table 7. Labels", (Column("a"),), (("1",),)).to_latex()
    assert "\\setcounter{table}{6}" in seven
    assert "\\caption{Labels}\\\\*" in seven
    assert "| a b |" in Table("t", (Column("x"),), (("a\nb",),)).to_markdown()
    evil = "[*] & \\input{x} 100% $x_1^2$ #~\n"
    columns = (Column(evil, evil, text=True), Column("b"))
    table = Table(f"Table 2. {evil}", columns, ((evil, evil), ("long " * 20, "1")), evil)
    text = table.to_latex("tab:x")
    check_latex(text, 2)
    assert r"\label{tab:x}" in text
    assert r"\input{" not in text
    assert text.count(r"\arraybackslash}p{") == 2
    assert r"\caption{{[}{*}{]} \& \textbackslash{}input\{x\}" in text
    assert r"\\ [" not in text.replace("\n", " ")
