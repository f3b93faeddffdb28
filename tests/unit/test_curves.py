"""The paper's Figure 3 from metrics.csv: numbers, files, and what is refused."""

import dataclasses

import numpy as np
import pytest
from factory import make_dataset
from fakes import make_run
from omegaconf import OmegaConf

from cropseg.core.errors import ConfigError, InputError
from cropseg.curves import draw, lines
from cropseg.predictor import ModelSpec
from cropseg.runs import open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("curves")
    dataset = make_dataset(root / "data", n=5, size=16)
    spec = ModelSpec.of(dataset, "location", loader="cropseg.none", model={}, versions={})
    return open_run(make_run(root / "run", spec, dataset, seed=0))


def copy(run, seed, values, *, lr=0.1, model="fake"):
    epochs = np.arange(len(values), dtype=float)
    history = {"epoch": epochs, "train_loss": np.array(values), "val_loss": np.array(values), "lr": epochs * 0 + lr}
    config = OmegaConf.create({"seed": seed, "lr": lr})
    path = run.path.with_name(f"{model}_{seed}_{lr}")
    return dataclasses.replace(run, path=path, config=config, history=history, choices={"model": model})


def test_a_run_gives_its_own_numbers(run):
    (line,) = lines([run], mean=False)
    assert (line.name, line.chosen) == ("fake", 1)
    np.testing.assert_array_equal(line.over("epoch", "train_loss"), [[1, 2.5, 2.5, 2.5], [2, 1.6, 1.6, 1.6]])
    assert line.over("epoch", "val_pixel_accuracy").shape == (0, 4)


def test_seeds_become_a_mean_with_their_range_and_other_configs_stay_apart(run):
    seeds = [copy(run, 0, [4.0, 2.0, np.nan]), copy(run, 1, [2.0, 1.0]), copy(run, 2, [3.0, np.inf, 9.0])]
    other = copy(run, 0, [1.0], lr=0.2)
    mean, alone = lines([*seeds, other], mean=True)
    np.testing.assert_allclose(mean.over("epoch", "val_loss"), [[1, 3, 2, 4], [2, 1.5, 1, 2], [3, 9, 9, 9]])
    assert mean.name.endswith("3 seeds")
    assert mean.chosen is None
    assert len(alone.histories) == 1
    assert len({line.name for line in lines([*seeds, other], mean=False)}) == 4


def timed(run, seed, values, seconds):
    one = copy(run, seed, values)
    return dataclasses.replace(one, history={**one.history, "epoch_seconds": np.array(seconds, dtype=float)})


def test_over_minutes_seeds_are_placed_at_their_mean_time(run, tmp_path):
    seeds = [timed(run, 0, [4.0, 2.0, 1.0, 9.0], [60] * 4), timed(run, 1, [2.0, np.nan, 3.0], [120, 180, 60])]
    (line,) = lines(seeds, mean=True)
    # As far as both went; the place does not hang on which of them has a value there.
    np.testing.assert_allclose(line.over("minutes", "val_loss"), [[1.5, 3, 2, 4], [3.5, 2, 2, 2], [4.5, 2, 1, 3]])
    assert len(line.over("epoch", "val_loss")) == 4
    assert lines(seeds[1:], mean=False)[0].end_of("minutes", 1) == 5
    (path,) = draw(seeds, tmp_path / "f", formats=["svg"], x="minutes")
    assert "minutes of training" in path.read_text()


@pytest.mark.parametrize("seconds", [None, [60.0, np.nan]])
def test_a_run_that_does_not_know_its_time_is_drawn_over_epochs_alone(run, seconds, tmp_path):
    early = copy(run, 0, [2.0, 1.0]) if seconds is None else timed(run, 0, [2.0, 1.0], seconds)
    with pytest.raises(InputError, match="how long its epochs took"):
        draw([early], tmp_path / "f", x="minutes")
    draw([early], tmp_path / "f", formats=["svg"])


def test_three_kinds_of_file_with_four_panels_and_the_note(run, tmp_path, capsys):
    written = draw([run], tmp_path / "figure.png", formats=["png", "svg", "pdf"])
    assert [path.name for path in written] == ["figure.png", "figure.svg", "figure.pdf"]
    assert [path.read_bytes()[:4] for path in written] == [b"\x89PNG", b"<?xm", b"%PDF"]
    said = capsys.readouterr().out
    assert all(str(path) in said for path in written)
    text = written[1].read_text()
    for title in ("(a) Loss", "(b) Validation mIoU all", "(c) Validation pixel accuracy", "(d) Learning rate"):
        assert title in text
    assert "simulated: measures the software" in text
    assert "not logged" in text  # this run's metrics.csv has no pixel accuracy
    before = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in draw([run], tmp_path / "figure", formats=["png", "svg", "pdf"])] == before


def test_real_pixels_carry_no_note(run, tmp_path):
    real = dataclasses.replace(run, spec=dataclasses.replace(run.spec, simulated=False))
    (path,) = draw([real, copy(run, 1, [2.0])][:1], tmp_path / "f", formats=["svg"])
    assert "simulated" not in path.read_text()


def test_several_runs_and_a_single_epoch_are_drawn(run, tmp_path):
    (path,) = draw(
        [copy(run, 0, [1.0]), copy(run, 1, [2.0, 1.0], model="b")], tmp_path / "f", formats=["svg"], mean=True
    )
    assert "b, validation" in path.read_text()


@pytest.mark.parametrize(
    ("history", "says"),
    [({"epoch": np.zeros(1), "val_miou": np.zeros(1)}, "not trained by epochs"), ({}, r"no metrics\.csv")],
    ids=["forest", "nothing"],
)
def test_a_run_without_epochs_is_refused(run, history, says, tmp_path):
    with pytest.raises(InputError, match=says):
        draw([run, dataclasses.replace(run, history=history)], tmp_path / "f")


@pytest.mark.parametrize("options", [{"formats": ["gif"]}, {"formats": []}, {"miou": "pixel_accuracy"}, {"x": "hours"}])
def test_options_that_do_not_exist_are_refused(run, options, tmp_path):
    with pytest.raises(ConfigError):
        draw([run], tmp_path / "f", **options)
