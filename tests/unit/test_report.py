import io
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from factory import make_dataset
from fakes import Hashed, Majority, Nearest, make_run, spec_for, with_predictor
from PIL import Image
from reports import IMPORTANCES, Sure, shown

from cropseg import details, metrics
from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError
from cropseg.evaluate import EvaluationSet, evaluate_runs
from cropseg.pictures import choose_patches
from cropseg.report import beside, claims, content, figures, panels, paper_data, sections, tables, writers
from cropseg.report import page as page_module
from cropseg.report.build import build_report
from cropseg.report.paper_form import Shown
from cropseg.runs import Run, label, open_run, open_runs
from cropseg.scores import MEANS, SIMULATED_NOTE
from cropseg.seeds import SeedScores


class Page(HTMLParser):
    """Well-formedness, addresses and text of a page."""

    VOID = ("meta", "link", "img", "br", "wbr")

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.text, self.tags = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def words_of(section):
    """What a chapter says, as a page."""
    return Page(page_module.to_html(content.Report("t", "l", "", (section,)))).words


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return shown(tmp_path_factory.getbasetemp())[0]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return shown(tmp_path_factory.getbasetemp())[1]


def test_the_page_is_whole_and_needs_nothing_but_itself(page):
    text = page.read_text()
    parsed = Page(text)
    assert all(link.startswith(("data:", "#")) for link in parsed.links)
    assert not re.search(r"https?://|@import|url\((?!\")", text)
    anchors = {link for link in parsed.links if link.startswith("#")}
    assert anchors
    assert all(f'id="{anchor[1:]}"' in text for anchor in anchors)
    assert "viewport" in text


def test_scores_stand_with_the_rule_of_absent_classes_and_the_note_on_simulation(page, runs):
    words = Page(page.read_text()).words
    for _, rule in MEANS.values():
        assert rule in words
    for run in runs:
        for one in run.evaluations.values():
            for protocol in ("all", "crop"):
                found = metrics.scores(one.confusion, protocol)
                for key in MEANS:
                    assert ("n/a" if np.isnan(found[key]) else f"{found[key]:.4f}") in words
    # Beside each score row, each set's rows, each confusion matrix and each card, not only once on the page.
    assert page.read_text().count(f'title="{SIMULATED_NOTE}"') == 8
    assert words.count(SIMULATED_NOTE) >= 2 + 4 + 2
    assert runs[0].spec.manifest_digest in words
    assert "location" in words


def test_every_part_is_there(page):
    text = page.read_text()
    words = Page(text).words
    for heading in ("Scores", "Class by class", "Image, truth and prediction", "Confusion", "Training data", "Runs"):
        assert heading in words
    for title in ("Loss", "Validation mIoU", "Learning rate", "Class weights", "Feature importances", "Parts of split"):
        assert title in words
    assert "Patches per country" in words
    assert "B08 0.7500 B02 0.2500" in words
    assert text.count("Patches per country</figcaption>") == 1
    # Curves of one run: 3; panels: 2 of the internal test part and 4 away; best, median and worst away; 6 pictures
    # each, 2 of the example, and 2 reliability diagrams. The empty one is that of the enlarged view.
    parsed = Page(text)
    assert parsed.tags.count("img") == 3 + (2 + 4 + 3) * 6 + 2 + 2 + 1
    for number in range(1, 15):
        assert f"Table {number}" in words
        assert f'id="table-{number}"' in text
    for number in range(1, 9):
        assert f"Figure {number}" in words
    for number in range(1, 6):
        assert f'id="figure-{number}"' in text
    assert "not evaluated; Table 9 tells how to" in words


def test_scores_lie_beside_the_page_as_csv_and_markdown(page, runs):
    rows = page.with_name("report_scores.csv").read_text().splitlines()
    assert len(rows) == 1 + 8
    text = page.with_name("report_scores.md").read_text()
    assert text.count("\n| ") == 1 + 1 + 8
    assert tables.scores(runs).rows[0][0] == "internal"


@pytest.mark.slow
def test_the_same_page_every_time(page, runs, tmp_path):
    assert build_report(runs, tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_names_from_files_cannot_become_markup():
    evil = "<script>alert(1)</script>"
    table = tables.Table(evil, (tables.Column(evil), tables.Column("n")), ((evil, "1"),), evil)
    group = content.Group(evil, evil, (((evil, ((evil, evil),)), ("all", ())),))
    picture = content.Picture(evil, evil, figures.png(np.zeros((2, 2, 3), np.uint8)), painted=True)
    blocks = (
        *(kind(evil) for kind in (content.Words, content.Heading, content.Missing)),
        content.Bullets((evil,)),
        content.Grid(table, by_class=True),
        content.Grouped(table, (group,)),
        content.Bars((content.Glance(evil, evil, evil, (content.Bar(evil, evil, 0.5, evil, 0.4, 0.6),)),), table),
        content.Figure(evil, (picture,), evil, patch=True),
        content.Matrix(evil, (evil, "b"), np.eye(2, dtype=np.int64), evil),
        content.Steps(evil, ((evil, evil),), evil),
        content.Index(evil, ((evil, evil, "", evil),)),
        content.Legend(scale=True),
        content.Listing(evil, evil + "\n```\n" + evil),
        content.Fold(evil, (content.Words(evil),)),
    )
    section = content.Section("a", evil, blocks)
    report = content.Report(evil, evil, evil, (section,), {evil: "#000000", "b": "#ffffff"}, evil)
    text = page_module.to_html(report)
    assert evil not in text
    assert Page(text).tags.count("script") == 1
    assert Page(text).words.count("alert(1)") > 40
    markdown = writers.to_markdown(report, writers.Files("files"))
    assert evil not in re.sub(r"(`{4,}).*?\1", "", markdown, flags=re.DOTALL)  # but in the listing, as it is
    tex = writers.to_latex(report, writers.Files("files"))
    assert evil not in re.sub(r"\\begin{verbatim}.*?\\end{verbatim}", "", tex, flags=re.DOTALL)


def test_a_dataset_that_is_gone_is_told_and_no_failure(tmp_path):
    data = make_dataset(tmp_path / "own", n=10, size=16)
    run = with_predictor(open_run(make_run(tmp_path / "r", spec_for(data), data)), Majority(spec_for(data)))
    evaluate_runs([run], [EvaluationSet("internal", None, None)])
    (tmp_path / "own").rename(tmp_path / "gone")
    run = open_run(run.path)
    (gallery,) = panels.galleries([run], ["internal"], 1)
    assert gallery.reason.startswith("no dataset at")
    assert "No panels: no dataset at" in words_of(beside.maps([gallery], seeds=False))
    assert "Not shown: no dataset at" in words_of(sections.data([run]))
    assert "Figure 2 is not shown: no dataset at" in words_of(beside.figures_section([run], []))


def test_a_dataset_made_again_is_not_passed_off_as_the_old_one(tmp_path):
    data = make_dataset(tmp_path / "own", n=10, size=16)
    run = with_predictor(open_run(make_run(tmp_path / "r", spec_for(data), data)), Majority(spec_for(data)))
    evaluate_runs([run], [EvaluationSet("internal", None, None)])
    make_dataset(tmp_path / "own", n=10, size=16, seed=9)
    run = open_run(run.path)
    (gallery,) = panels.galleries([run], ["internal"], 1)
    assert "prepared again since the evaluation" in gallery.reason
    assert "prepared again since r was trained" in words_of(sections.data([run]))


def test_weights_that_are_gone_cost_the_panels_alone(runs):
    run = open_run(runs[1].path)  # its spec names the forest's loader, and there is no forest
    found = panels.galleries([run], ["internal", "away"], 1)
    assert all(one.reason for one in found)


def test_panels_are_predicted_as_the_scores_were(tmp_path):
    data = make_dataset(tmp_path / "own", n=10, size=16)
    model = Hashed(spec_for(data))
    path = make_run(tmp_path / "r", spec_for(data), data)
    evaluate_runs([with_predictor(open_run(path), model)], [EvaluationSet("internal", None, None)], tta="d4")
    model.seen.clear()
    panels.galleries([with_predictor(open_run(path), model)], ["internal+d4"], 1)
    assert len(model.seen) == 8


def test_a_run_without_evaluation_is_told_what_to_do(tmp_path):
    run = open_run(make_run(tmp_path / "r", spec_for()))
    words = Page(build_report([run], tmp_path / "r.html").read_text()).words
    assert "python evaluate.py" in words
    assert "No run has been evaluated yet" in words


def test_a_random_split_is_called_optimistic(tmp_path):
    run = open_run(make_run(tmp_path / "r", spec_for(split="random", simulated=False)))
    said = " ".join(claims.claims([run]))
    assert "Internal scores are optimistic" in said
    assert "imulated" not in said


@pytest.mark.parametrize("out", [5, True, ["a.html"], 0.5])
def test_a_page_that_is_no_path_is_refused(runs, out):
    with pytest.raises(ConfigError, match=r"a report is an HTML page: .*let out= end in \.html"):
        build_report(runs, out)


@pytest.mark.parametrize(("out", "panels"), [("r.pdf", 1), ("r.html", -1)])
def test_impossible_options_are_refused(runs, tmp_path, out, panels):
    with pytest.raises(ConfigError):
        build_report(runs, tmp_path / out, panels=panels)


def test_composition_counts_what_lies_in_the_masks(tmp_path):
    data = make_dataset(tmp_path / "d", n=6, size=16, ignored=True)
    masks = np.stack([data.mask(row) for row in range(6)])
    models = Shown((open_run(make_run(tmp_path / "r", spec_for(data), data)),))
    table = paper_data.composition(models).table
    found = {row[0]: (row[0], *row[5:]) for row in table.rows}
    valid = masks[masks != 255]
    for i, name in enumerate(data.spec.taxonomy.names):
        pixels = int((valid == i).sum())
        assert found[name][1] == f"{pixels:,}"
        assert found[name][2] == f"{pixels / valid.size:.3%}"
        assert found[name][3] == str(int((masks == i).any(axis=(1, 2)).sum()))
    assert f"{(masks == 255).sum():,} more pixels are unknown" in table.note
    countries = {row[0]: row[3:] for row in paper_data.countries(models).table.rows}
    assert countries["XX"] == countries["Total"] == ("6", "100.000%")
    assert [row[:2] for row in tables.parts(data, "location").rows] == [("train", "4"), ("val", "1"), ("test", "1")]


def test_patches_are_shown_by_their_labels_with_every_place_in_turn(tmp_path):
    data = make_dataset(tmp_path, n=9, size=16)
    rows = choose_patches(data, range(9), 3)
    rois = data.manifest["roi"].to_pylist()
    assert len({rois[row] for row in rows}) == 3
    assert choose_patches(data, range(9), 99).__len__() == 9
    assert rows == choose_patches(data, range(9), 3)


def test_pictures_show_colours_and_grey_for_the_unknown():
    taxonomy = spec_for().taxonomy
    mask = np.array([[1, 255]], np.uint8)
    painted = figures.paint(mask, taxonomy)
    # The page finds classes by their exact colour.
    back = np.asarray(Image.open(io.BytesIO(figures.png(painted))).convert("RGB"))
    np.testing.assert_array_equal(back, painted)
    assert figures.jpeg(painted).startswith(b"\xff\xd8")
    sure = np.array([[0, 0.5, 1, 0.02]], np.float32)
    shown = figures.confidence(sure, np.array([[False, False, False, True]]))
    colours = ["#{:02x}{:02x}{:02x}".format(*pixel) for pixel in shown[0]]
    assert colours[:3] == [figures.CONFIDENCE[0], figures.CONFIDENCE[10], figures.CONFIDENCE[20]]
    assert tuple(shown[0, 3]) == figures.UNKNOWN
    image = np.zeros((10, 4, 4), np.uint16)
    assert (
        figures.true_color(image, spec_for().bands) == figures.paint(np.full((4, 4), 255, np.uint8), taxonomy)
    ).all()
    assert figures.true_color(image[:1] + 5, ("B08",)).shape == (4, 4, 3)
    assert figures.curves([{"epoch": np.array([0.0]), "train_loss": np.array([1.0])}]) == []
    assert figures.curves([{}]) == []


def test_twins_are_told_apart_by_their_folder(tmp_path):
    twins = [open_run(make_run(tmp_path / name, spec_for(), model="unet")) for name in "ab"]
    assert [label(run, twins) for run in twins] == ["unet (a)", "unet (b)"]
    assert label(twins[0], twins[:1]) == "unet"


def test_what_a_score_may_not_be_taken_for_is_claimed(tmp_path):
    own = make_dataset(tmp_path / "own", n=10, size=32)
    run = open_run(make_run(tmp_path / "r", spec_for(own), own))
    with_predictor(run, Nearest(run.spec))
    sets = [EvaluationSet("chosen_by", str(own.root), "location", part="val")]
    evaluate_runs([run], sets)
    again = open_run(run.path)
    places = len(again.details("chosen_by").clusters)
    assert places < 10
    assert f"{places} place" in claims.table([again]).rows[0][5]
    words = " ".join(claims.claims([again]))
    assert "Set chosen_by scores part val" in words
    assert "prepared again" not in words
    again = make_dataset(tmp_path / "again", n=10, size=32, seed=5)
    evaluate_runs([with_predictor(run, Nearest(run.spec))], [EvaluationSet("again", str(again.root), "location")])
    words = " ".join(claims.claims([open_run(run.path)]))
    assert "Dataset tiny was prepared again between the training of r and its evaluation on again" in words


class Wrong(Nearest):
    """Right up to ``seed`` columns of each window, which are called background."""

    def __init__(self, spec, seed):
        super().__init__(spec)
        self.columns = seed

    def labels(self, images):
        labels = super().labels(images)
        labels[..., : self.columns] = 0
        return labels


def test_seeds_of_one_model_are_shown_with_their_range_first(tmp_path, capsys):
    own = make_dataset(tmp_path / "own", n=10, size=16)
    spec = spec_for(own)
    runs = []
    for seed in (0, 4, 8):
        run = open_run(make_run(tmp_path / "sweep" / f"{seed}_net", spec, own, model="net", seed=seed))
        storage.write_json(run.path / "importances.json", IMPORTANCES)
        runs.append(with_predictor(run, Wrong(spec, seed)))
    (tmp_path / "sweep" / "multirun.yaml").write_text("")
    runs.append(with_predictor(open_run(make_run(tmp_path / "r", spec, own, model="other", seed=1)), Nearest(spec)))
    results = evaluate_runs(runs, [EvaluationSet("internal", None, None)])
    shown = capsys.readouterr().out
    assert "Over seeds: mean (lowest … highest)" in shown
    scores = [one.scores("all")["miou_present"] for one in results[:3]]
    assert scores[0] > scores[1] > scores[2]
    expected = f"{np.mean(scores):.4f} ({scores[2]:.4f} … {scores[0]:.4f})"

    out = build_report(
        open_runs([str(tmp_path / "sweep"), str(tmp_path / "r")], tmp_path), tmp_path / "r.html", panels=0
    )
    words = Page(out.read_text()).words
    assert expected in words
    assert words.index("Scores over seeds") < words.index("Run by run")
    assert "net, 3 seeds: mean and range" in words
    assert "2 models (4 trained runs)" in words
    assert "3 seeds added up" in words
    for name in ("r_seeds.csv", "r_seeds.md"):
        text = (tmp_path / name).read_text()
        assert expected in text
        assert "3 (0, 4, 8)" in text
        assert SIMULATED_NOTE in text
    rows = (tmp_path / "r_scores.md").read_text().splitlines()
    assert sum("one seed" in row for row in rows) == 2
    assert all("one seed" not in row for row in rows if "| net" in row)


def test_without_several_seeds_there_is_no_such_table(page):
    assert "Scores over seeds" not in page.read_text()
    assert not page.with_name("report_seeds.md").exists()
    assert "one seed" in page.with_name("report_scores.csv").read_text()


def test_a_curve_over_seeds_has_the_mean_and_range_of_what_each_epoch_has():
    long = {"epoch": np.array([0.0, 1, 2]), "val_loss": np.array([3.0, np.nan, 1])}
    short = {"epoch": np.array([0.0, 1]), "val_loss": np.array([1.0, 2])}
    found = figures._over_epochs([long, short], "val_loss")
    np.testing.assert_array_equal(found, [[1, 2, 1, 3], [2, 2, 2, 2], [3, 1, 1, 1]])
    assert [one.caption for one in figures.curves([long, short])] == ["(a) Loss"]


def test_tables_of_twins_are_told_apart(tmp_path):
    paths = [make_run(tmp_path / name, spec_for(), model="forest") for name in "ab"]
    for path in paths:
        storage.write_json(path / "importances.json", IMPORTANCES)
        (path / "metrics.csv").unlink()
    twins = [open_run(path) for path in paths]
    words = words_of(sections.training(twins))
    assert "Feature importances, forest (a)" in words
    assert "Feature importances, forest (b)" in words


def test_best_median_and_worst_are_told_by_what_they_are(page, runs):
    words = Page(page.read_text()).words
    assert "mIoU over the classes present in a patch (labelled crop pixels), mean of 2 runs, among 4 patches" in words
    assert "only 2 patches have a score" in words
    ids, means = [], []
    stored = [details.read(run.results, "away") for run in runs]
    for row, one in enumerate(stored[0].patches["id"].to_pylist()):
        found = [metrics.scores(details.matrices(each.patches)[row], "crop")["miou_present"] for each in stored]
        ids.append(one)
        means.append(np.mean(found))
    for role, score in (("Best", max(means)), ("Median", sorted(means)[1]), ("Worst", min(means))):
        assert f"{role} (mean {score:.2f}): " in words


def test_models_are_let_go_of_after_their_panels(runs, tmp_path, monkeypatch):
    alive = []
    monkeypatch.setattr(Run, "predictor", property(lambda run: alive.append(run.name) or Sure(run.spec)), raising=True)
    released = []
    monkeypatch.setattr(Run, "release", lambda run: released.append((run.name, len(alive))))
    fresh = [open_run(run.path) for run in runs]
    panels.galleries(fresh, ["internal", "away"], 1)
    # Each model is asked about both sets, then released before the next is loaded.
    assert [name for name, _ in released] == ["unet", "forest"]
    assert alive == ["unet"] * 2 + ["forest"] * 2
    assert [count for _, count in released] == [2, 4]


def test_what_a_model_learned_from_is_claimed(tmp_path):
    spec = spec_for(
        labels={"fraction": 0.1, "parcels": 120, "all_parcels": 1200, "patches": 5, "all_patches": 6},
        init_from={"run": "parent", "frozen": "encoder", "trained_on": [{"dataset": "elsewhere"}]},
    )
    said = claims.claims([open_run(make_run(tmp_path / "r", spec))])
    seen = "0.1 of the parcels: 120 of 1,200 parcels, in 5 of 6 patches"
    assert f"Run r saw few of the training labels: {seen}." in said
    assert "Run r did not start afresh: run parent, trained on elsewhere, frozen: encoder." in said


@pytest.mark.parametrize(
    ("share", "n", "part", "simulated", "expected"),
    [
        (0.0, 3, "test", False, "holds for this way of training"),
        (0.0, 1, "test", False, "holds for this one trained model"),
        (0.2, 2, "test", False, "an upper bound: some of the ground was trained on; holds for these 2 runs"),
        (
            None,
            1,
            "test",
            False,
            "an upper bound: whether the ground was trained on is not known; holds for this one trained model",
        ),
        (
            0.0,
            3,
            "val",
            True,
            "that the software works; nothing about real fields; fit to what it was trained on or chosen",
        ),
    ],
)
def test_what_may_be_said_follows_ground_seeds_and_part(runs, share, n, part, simulated, expected):
    one = replace(
        runs[0].evaluations["away"], shared_ground=share, part=part, simulated=simulated, trained_on_simulated=False
    )
    found = claims.may_claim(SeedScores("net", tuple(range(n)), (one,) * n))
    assert found.startswith(expected)


def test_markdown_and_latex_hold_the_same_with_their_pictures_beside(page, runs):
    text, tex = (page.with_suffix(suffix).read_text() for suffix in (".md", ".tex"))
    pictures = sorted(path.name for path in (page.parent / "report_files").iterdir())
    assert len(pictures) == 3 + (2 + 4 + 3) * 6 + 2 + 2
    for name in pictures:
        assert f"(report_files/{name})" in text
        assert f"{{report_files/{name}}}" in tex
    for run in runs:
        for one in run.evaluations.values():
            score = f"{metrics.scores(one.confusion, 'all')['miou_present']:.4f}"
            assert score in text
            assert score in tex
    for number in range(1, 15):
        assert f"Table {number}" in text
        assert f"Table {number}" in tex
    titles = re.findall(r"^(?:\*\*|#+ )(.+?)(?:\*\*)?$", text, flags=re.MULTILINE)
    assert not [one for one, following in pairwise(titles) if one == following]
    begun = re.findall(r"\\begin\{(\w+)\}", tex)
    assert sorted(begun) == sorted(re.findall(r"\\end\{(\w+)\}", tex))
    verbatim = re.sub(r"\\begin\{verbatim\}.*?\\end\{verbatim\}", "", tex, flags=re.DOTALL)
    plain = re.sub(r"\\[\\{}%&#_$]", "", verbatim)
    assert plain.count("{") == plain.count("}")
    assert not re.search(r"(?<!\\)[#]", verbatim.replace("[HTML]", ""))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here to set the report with")
def test_latex_sets_the_report(page, tmp_path):
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"-output-directory={tmp_path}"]
    done = subprocess.run(
        [*command, page.with_suffix(".tex").name], cwd=page.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_a_heading_breaks_behind_underscores_and_nowhere_else():
    assert page_module.breakable("a_b<c>") == "a_<wbr>b&lt;c&gt;"


def test_a_range_is_set_apart_and_nothing_is_taken_for_markup():
    assert page_module.cell("0.5 (0.4 … 0.6)") == '0.5 <span class="span">(0.4\u00a0… 0.6)</span>'
    assert page_module.cell("0.5 [0.4, 0.6]") == '0.5 <span class="span">[0.4, 0.6]</span>'
    assert page_module.cell("<b>") == "&lt;b&gt;"
    classes = {"maize": 1, "sugar beet": 7}
    assert page_module.row_class(("Sugar beet", "0.1"), classes) == 7
    assert page_module.row_class(("1", "Maize"), classes) == 1
    assert page_module.row_class(("maize", "sugar beet"), classes) == ""
    assert page_module.row_class(("all",), classes) == ""
    assert page_module.shares(np.array([[1, 3], [0, 0]])) == [[25.0, 75.0], [None, None]]


def test_names_are_no_formulas_in_curves_and_no_letter_is_amiss(recwarn):
    history = {"epoch": np.arange(3.0), "_$x^$ \u4e2d loss": np.arange(3.0), "val_loss": np.arange(3.0)}
    assert len(figures.curves([history])) == 1
    assert not recwarn.list


@pytest.mark.parametrize(("out", "count", "panels"), [("", 1, 0), ("r.html", 0, 0), ("r.html", 1, True)])
def test_no_run_no_file_no_number(runs, tmp_path, out, count, panels):
    (tmp_path / "d.html").mkdir()
    with pytest.raises(ConfigError):
        build_report(runs[:count], tmp_path / (out or "d.html"), panels=panels)


def test_odd_names_become_addresses_that_latex_and_markdown_take(tmp_path):
    run = open_run(make_run(tmp_path / "r", spec_for(), model="_$x^$ 100% #1"))
    build_report([run], tmp_path / "my #1 100%.html", title="a\u4e2d & b", panels=0)
    text = (tmp_path / "my #1 100%.tex").read_text()
    assert "{my_1_100__files/001.png}" in text
    assert r"\DeclareUnicodeCharacter{4E2D}{?}" in text
    assert (tmp_path / "my_1_100__files" / "001.png").is_file()
    assert "(my_1_100__files/001.png)" in (tmp_path / "my #1 100%.md").read_text()


@pytest.mark.parametrize(("name", "text"), [("validation.json", "[]"), (".hydra/config.yaml", "loss: [")])
def test_broken_files_of_a_run_are_named(tmp_path, name, text):
    path = make_run(tmp_path / "r", spec_for())
    (path / name).write_text(text)
    with pytest.raises(InputError, match=name.rpartition("/")[2]):
        open_run(path)
