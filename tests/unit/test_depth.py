"""Evidence and the report's tables of it, from made-up details whose differences are known."""

from dataclasses import replace

import numpy as np
import pytest
from details import evaluation_of, make_details
from fakes import make_run, spec_for

from cropseg import metrics
from cropseg.breakdowns import groups
from cropseg.calibration import Validated, recalibrated, write_validated
from cropseg.evidence import BRIEF_COLUMNS, INTERVAL_COLUMNS, NOT_STORED, comparisons, drops, interval_rows, scored
from cropseg.intervals import FITTED_ONLY, compare, holm, intervals
from cropseg.report import depth
from cropseg.runs import open_run


def stored(folder, name, *, seed=0, sets=None, model=None, **options):
    """A run with details stored beside its evaluations."""
    path = make_run(folder / name, spec_for(), model=model or name, seed=seed, loss=None)
    run = open_run(path)
    for key, (details, changes) in (sets or {"internal": (make_details(seed, **options), {})}).items():
        run.store(evaluation_of(details, key, **changes), details)
    return open_run(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two models with three seeds, the first better, on two sets; the outer set is harder and lacks wheat."""
    folder = tmp_path_factory.mktemp("runs")
    found = []
    for model, right in (("good", 0.8), ("poor", 0.7)):
        for seed in range(3):
            inner = make_details(10 * seed + len(model) + int(right * 10), right=right, hard=1)
            outer = make_details(50 + seed, places=12, right=right - 0.2, hard=2, absent=(2,), prefix="q")
            sets = {"internal": (inner, {}), "away": (outer, {"protocol": "crop"})}
            found.append(stored(folder, f"{model}{seed}", seed=seed, sets=sets, model=model))
    return found


def cell(table, row, column):
    (found,) = [line for line in table.rows if line[0] == row]
    return found[[one.title for one in table.columns].index(column)]


def test_intervals_are_those_over_places_and_seeds(runs):
    rows = interval_rows(runs, ["internal"])
    assert len(rows) == 4
    assert all(len(row) == len(INTERVAL_COLUMNS) for row in rows)
    (good, *_) = [row for row in rows if row[2] == "good"]
    found = intervals([run.details("internal").clusters for run in runs[:3]]).means["miou_present"]
    assert good[3:5] == ("3 (0, 1, 2)", "14 places")
    assert good[6] == f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"
    brief = interval_rows(runs, ["internal", "away"], brief=True)
    assert [len(row) for row in brief] == [len(BRIEF_COLUMNS)] * 4
    assert {row[1] for row in brief if row[0] == "away"} == {"labelled crop pixels"}


def test_comparisons_are_paired_and_corrected_over_the_whole_table(runs):
    found, reasons = comparisons(runs, ["internal", "away"])
    assert reasons == []
    assert [(one.model, other.model, one.first.key) for one, other, _, _ in found] == [
        ("good", "poor", "internal"),
        ("good", "poor", "away"),
    ]
    sides = [[run.details("away").clusters for run in half] for half in (runs[:3], runs[3:])]
    assert found[1][2] == compare(*sides, protocol="crop")
    assert [p for *_, p in found] == list(holm({str(i): one.p for i, (_, _, one, _) in enumerate(found)}).values())
    (table,) = depth.comparisons(runs)
    assert "two ways of training" in table.rows[0][-1]
    assert table.rows[0][4].startswith("+0.")
    (alone,) = depth.comparisons([runs[0], runs[3]])
    assert {row[-1] for row in alone.rows} == {FITTED_ONLY}


def test_models_of_other_patches_are_not_compared(runs, tmp_path):
    details = make_details(5)
    other = stored(tmp_path, "other", sets={"internal": (details, {"manifest_digest": "f" * 64})})
    (table,) = depth.comparisons([runs[0], other])
    assert (table.rows, table.note) == ((), "No two models were scored on the same patches.")


def test_the_drop_is_read_under_the_protocol_that_both_know(runs):
    (good, poor) = drops(runs, "away")
    assert (good.model, poor.model, good.protocol) == ("good", "poor", "crop")
    values = []
    for run in runs[:3]:
        inner, outer = (metrics.scores(run.evaluations[key].confusion, "crop")["iou"] for key in ("internal", "away"))
        values.append(np.mean([inner[i] - outer[i] for i in (1, 3)]))
    assert good.found.means["common"].value == pytest.approx(np.mean(values))
    (table,) = depth.drops(runs)
    assert table.title == "Drop from internal to away"
    assert cell(table, "wheat", "good, 3 seeds") == "not on both"
    assert cell(table, "maize", "good, 3 seeds").startswith("+0.")
    assert "background" not in [row[0] for row in table.rows]


def test_drops_need_both_sets_with_the_same_augmentation(runs, tmp_path):
    details = make_details()
    sets = {"internal": (details, {}), "away+d4": (details, {"set": "away", "tta": "d4"})}
    plain = stored(tmp_path, "plain", sets=sets)
    assert drops([plain], "away+d4") == []
    (table,) = depth.drops([plain])
    assert "No model was scored" in table.note
    sets["internal+d4"] = (details, {"set": "internal", "tta": "d4"})
    (one,) = drops([stored(tmp_path, "both", sets=sets)], "away+d4")
    assert one.found.means["miou"].value == 0


def test_the_drop_is_of_the_seeds_that_know_both_sets(runs, tmp_path):
    more = stored(tmp_path, "good3", seed=3, sets={"away": (make_details(7), {"protocol": "crop"})}, model="good")
    expected, _ = drops(runs, "away")
    for every in ([more, *runs], [*runs, more]):
        (found,) = [one for one in drops(every, "away") if one.model == "good"]
        assert {run.seed for run in found.outer.runs} == {run.seed for run in found.inner.runs} == {0, 1, 2}
        assert found.found.means["common"] == expected.found.means["common"]
    assert [one.model for one in drops([more], "away")] == []


def test_few_places_and_old_evaluations_give_the_reason(runs, tmp_path):
    few = stored(tmp_path, "few", places=9)
    (table, classes) = depth.intervals([few])
    assert table.rows[0][-1] == "9 places: no interval below 10"
    assert "[" not in table.rows[0][5]
    assert "9 places: no interval below 10" in classes.note
    old = open_run(make_run(tmp_path / "old", spec_for(), model="old", seed=0))
    old.store(few.evaluations["internal"])
    old = open_run(old.path)
    assert scored([old], "internal")[0].details == ()
    for part in (depth.intervals, depth.breakdowns, depth.boundary, depth.parcels, depth.calibration):
        tables = part([old])
        assert tables
        assert any("evaluate again" in " ".join([table.note, *(c for r in table.rows for c in r)]) for table in tables)
    for table in depth.breakdowns([old]):
        assert table.rows == ()
    (compared,) = depth.comparisons([old, few])
    assert f"old: {NOT_STORED}" in compared.note


def test_breakdowns_show_what_differs_and_say_what_does_not(runs):
    tables = {table.title: table for table in depth.breakdowns(runs)}
    assert "internal by country" in tables
    by_month = tables["internal by month of the image"]
    assert [row[0] for row in by_month.rows] == ["April", "June"]
    details = [run.details("internal") for run in runs[:3]]
    scores = [metrics.scores(groups(one, "month")[1].confusion)["pixel_accuracy"] for one in details]
    assert cell(by_month, "June", "good, 3 seeds: pixel acc.").startswith(f"{np.mean(scores):.4f} (")
    assert not any("by year" in title for title in tables)
    assert any("year of the image: 2021" in table.note for table in tables.values())


def test_long_breakdowns_show_both_ends(tmp_path):
    run = stored(tmp_path, "many", places=25)
    (table,) = [table for table in depth.breakdowns([run]) if table.title == "internal by place"]
    assert len(table.rows) == 20
    shown = [float(row[-1]) for row in table.rows]
    assert shown == sorted(shown)
    assert "10 lowest and the 10 highest of 25" in table.note


def test_boundary_and_parcels_or_why_not(runs, tmp_path):
    tables = depth.boundary(runs)
    assert [table.title for table in tables] == ["internal by distance to the edge", "away by distance to the edge"]
    assert "parcel raster" in tables[0].note
    majority, _, sizes, _ = depth.parcels(runs)
    found = metrics.scores(runs[0].details("internal").parcel_majority)
    assert majority.rows[0][:4] == ("good", "3 (0, 1, 2)", f"{found['pixels']}", f"{found['miou_present']:.4f}")
    assert [row[1] for row in sizes.rows] == ["50", "26"]
    lacking = {"boundary": (), "parcel_majority": None, "parcel_areas": (), "outside_parcels": None, "reliability": {}}
    reasons = {"boundary": "no edges", "parcels": "no parcels", "reliability": "no confidence"}
    details = replace(make_details(), **lacking, without=reasons)
    run = stored(tmp_path, "lacking", sets={"internal": (details, {})})
    notes = [table.note for part in (depth.boundary, depth.parcels, depth.calibration) for table in part([run])]
    assert notes == [f"lacking: {why}." for why in ("no edges", "no parcels", "no parcels", "no confidence")]


def test_calibration_before_and_after(runs, tmp_path):
    inner, other = make_details(3), make_details(4)
    run = stored(tmp_path, "net", sets={"internal": (inner, {})})
    (table,) = depth.calibration([run])
    assert table.rows[0][5] == "n/a"
    assert "not stored" in table.note
    known = {key: other.reliability[key] for key in ("all", "crop")}
    write_validated(run.validation_file(), Validated("0" * 64, "location", "w", known))
    (table,) = depth.calibration([run])
    before, after = inner.reliability["all"].ece(), recalibrated(inner.reliability["all"], known["all"]).ece()
    assert table.rows[0][4:6] == (f"{before:.4f}", f"{after:.4f}")
    assert after < before


def test_overlapping_windows_are_counted_both_ways(runs, tmp_path):
    details = replace(make_details(), once=make_details().confusion // 2)
    run = stored(tmp_path, "net", sets={"internal": (details, {})})
    (table,) = depth.once([run])
    whole, half = (metrics.scores(matrix) for matrix in (details.confusion, details.once))
    assert [row[3:6] for row in table.rows] == [
        ("every window", f"{whole['pixels']:,}", f"{whole['miou']:.4f}"),
        ("each pixel once", f"{half['pixels']:,}", f"{half['miou']:.4f}"),
    ]
    (none,) = depth.once(runs)
    assert none.rows == ()


def test_nothing_evaluated_gives_tables_without_rows(tmp_path):
    run = open_run(make_run(tmp_path / "bare", spec_for()))
    for part in (depth.intervals, depth.comparisons, depth.drops, depth.breakdowns, depth.calibration):
        assert all(not table.rows and table.note for table in part([run]))
    assert depth.boundary([run]) == depth.parcels([run]) == []


def test_tables_are_whole(runs):
    parts = (depth.intervals, depth.comparisons, depth.drops, depth.breakdowns, depth.boundary, depth.parcels)
    for part in (*parts, depth.calibration):
        for table in part(runs[::3]):
            assert all(len(row) == len(table.columns) for row in table.rows)
            assert all(isinstance(value, str) for row in table.rows for value in row)
            assert table.to_markdown()
