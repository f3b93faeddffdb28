import math

import numpy as np
import pytest
from fakes import make_run, spec_for
from hypothesis import given
from hypothesis import strategies as st

from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError
from cropseg.diff import ABSENT, differences, show
from cropseg.runs import open_run
from cropseg.sweeps.jobs import FILE, Job, latest_sweep, read_jobs, record, summarise, varied
from cropseg.sweeps.plot import axis_of, parallel_coordinates


@pytest.fixture
def sweep(tmp_path):
    folder = tmp_path / "runs" / "x_sweep"
    storage.write_json(folder / FILE, {"identity": "0"})
    return folder


def test_numbers_that_span_a_decade_are_logarithmic():
    axis = axis_of("lr", ["1e-4", "1e-3", "0.01"])
    assert axis.log
    assert axis.heights == pytest.approx([0, 0.5, 1])
    assert axis.labels == ("0.0001", "0.001", "0.01")


def test_numbers_within_a_decade_and_with_zero_are_linear():
    assert axis_of("dropout", ["0.1", "0.2", "0.3"]).heights == pytest.approx([0, 0.5, 1])
    assert not axis_of("dropout", ["0.01", "0.1", "0.15", "0.2", "0.3"]).log
    assert not axis_of("miou_present", ["0.001", "0.01", "0.1"]).log
    zero = axis_of("x", ["0", "1", "100"])
    assert not zero.log
    assert zero.heights == pytest.approx([0, 0.01, 1])


def test_names_have_their_places():
    axis = axis_of("loss", ["dice", "ce", "dice", ""])
    assert axis.labels == ("—", "ce", "dice")
    assert axis.heights == pytest.approx([5 / 6, 0.5, 5 / 6, 1 / 6])


def test_a_single_value_lies_in_the_middle():
    assert axis_of("x", ["3", "3"]).heights == pytest.approx([0.5, 0.5])


@given(st.lists(st.floats(-1e12, 1e12, allow_nan=False), min_size=1, max_size=30))
def test_heights_keep_the_order_of_the_numbers(values):
    heights = axis_of("x", [repr(value) for value in values]).heights
    assert np.all((heights >= 0) & (heights <= 1 + 1e-9))
    order = np.argsort(values, kind="stable")
    assert np.all(np.diff(heights[order]) >= -1e-9)


def test_no_picture_of_nothing(tmp_path):
    job = Job("0_x", tmp_path, {"a": "1"}, "failed")
    assert not parallel_coordinates([job], ["a"], tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_records_are_read_back_and_the_newest_of_a_folder_counts(sweep):
    make_run(sweep / "2_x", spec_for())
    record(sweep, "2_x", sweep / "2_x", ["a=1", "+b=x=y"], "begun")
    record(sweep, "10_x", sweep / "10_x", ["a=2"], "begun")
    record(sweep, "1_x", sweep / "1_x", ["a=3"], "failed", "no such file")
    record(sweep, "after2_0_x", sweep / "10_x", ["a=2"], "failed", "again")
    jobs = read_jobs(sweep)
    assert [job.name for job in jobs] == ["1_x", "2_x", "after2_0_x"]
    assert [job.state for job in jobs] == ["failed", "finished", "failed"]
    assert jobs[1].overrides == {"a": "1", "b": "x=y"}
    assert (jobs[1].score, jobs[1].epoch) == (0.5, jobs[1].epoch)
    assert math.isnan(jobs[0].score)
    assert varied(jobs) == ["a", "b"]


def test_what_is_no_sweep_is_one_clear_error(sweep, tmp_path):
    with pytest.raises(InputError, match="no sweep's folder"):
        read_jobs(tmp_path)
    with pytest.raises(InputError, match="no sweep in"):
        latest_sweep(tmp_path)
    with pytest.raises(InputError, match="no job of"):
        summarise("latest", sweep.parent)
    with pytest.raises(ConfigError, match="one sweep"):
        summarise(["a", "b"], sweep.parent)
    storage.write_json(sweep / "jobs" / "0.json", {"state": "begun"})
    with pytest.raises(InputError, match="no record of a job"):
        read_jobs(sweep)


def test_two_runs_side_by_side(tmp_path, capsys):
    versions = {"cropseg": "0", "commit": "abc"}
    a = open_run(make_run(tmp_path / "a", spec_for(), model="unet4gn", seed=1))
    b = open_run(make_run(tmp_path / "b", spec_for(versions=versions, manifest_digest="1" * 64), model="rf", seed=2))
    rows = {key: (left, right) for key, left, right in differences(a, b)}
    assert rows["option model"] == ("unet4gn", "rf")
    assert rows["seed"] == ("1", "2")
    assert rows["data: manifest digest"] == ("0" * 64, "1" * 64)
    assert rows["version: commit"] == (ABSENT, "abc")
    assert "data: bands" not in rows
    assert next(iter(rows)) == "option model"
    show(a, b)
    assert "differences" in capsys.readouterr().out
    show(a, a)
    assert "differ in nothing" in capsys.readouterr().out
