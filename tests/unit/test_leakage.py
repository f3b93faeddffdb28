"""The table of experiment=leakage: what is in train is measured, gaps are right, and what is missing is named."""

import csv
import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import shapely
from factory import make_dataset
from fakes import Nearest, make_run, spec_for
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from cropseg import leakage
from cropseg.core.errors import ConfigError, InputError, MismatchError
from cropseg.core.manifest import MANIFEST_SCHEMA, SPLIT_SCHEMA, open_dataset, write_table
from cropseg.intervals import bootstrap
from cropseg.leakage import asked_splits, by_split, check_splits, gaps, tabulate
from cropseg.leakage_tables import SplitScore, gap_table
from cropseg.metrics import scores
from cropseg.runs import Run, open_run
from cropseg.seeds import Spread

PLACES, DATES = 24, 2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """24 places in two dates each, with a loose split that tears them apart and a strict one that does not."""
    root = tmp_path_factory.mktemp("leak") / "data"
    made = make_dataset(root, n=PLACES * DATES, size=16, noise=900, parts={"test": 1.0}, split="unused")
    rows = made.manifest.to_pylist()
    for number, row in enumerate(rows):
        place, date = divmod(number, DATES)
        left = 15 + 0.01 * place
        row |= {"id": f"xx/{place:02d}/p{date}/0_0", "geometry": shapely.box(left, 48, left + 0.01, 48.01).wkb}
    write_table(root / "manifest.parquet", rows, MANIFEST_SCHEMA)
    # Loose: the first date of every place is learned, the second of the last half tested. Strict: whole places.
    loose = {(place, date): "train" if date == 0 else "test" if place >= 12 else "val" for place in range(24)
             for date in range(2)}  # fmt: skip
    strict = {(place, date): "train" if place < 8 else "val" if place < 10 else "test" for place in range(24)
              for date in range(2)}  # fmt: skip
    for name, parts in (("random", loose), ("location", strict)):
        split = [
            {"id": f"xx/{place:02d}/p{date}/0_0", "part": part, "group": str(place)}
            for (place, date), part in parts.items()
        ]
        write_table(root / "splits" / f"{name}.parquet", split, SPLIT_SCHEMA)
    return open_dataset(root)


@pytest.fixture
def sweep(data, tmp_path, monkeypatch):
    """Runs of two splits and three seeds; their models differ by the noise of their seed."""
    monkeypatch.setattr(Run, "predictor", property(lambda run: Nearest(run.spec)))
    for number, (split, seed) in enumerate([(s, n) for s in ("location", "random") for n in range(3)]):
        add(data, tmp_path, number, split, seed)
    return tmp_path


def add(data, folder, number, split, seed, **config):
    path = folder / f"{number}_fake"
    spec = dataclasses.replace(spec_for(data), split=split, dataset_root=str(data.root), manifest_digest=data.digest)
    make_run(path, spec, data)
    config = {"seed": seed, "dataset": {"split": split, "root": str(data.root)}, "lr": 1, **config}
    OmegaConf.save(OmegaConf.create(config), path / ".hydra" / "config.yaml")
    return path


def test_one_table_of_all_splits(sweep, data, capsys):
    splits, between = tabulate(str(sweep), sweep, score="pixel_accuracy")
    with (sweep / "leakage.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = ("split", "seeds", "training patches", "test patches", "test groups", "test places")
    assert [tuple(row[column] for column in columns) for row in rows] == [
        ("random", "0, 1, 2", "24", "12", "12", "12"), ("location", "0, 1, 2", "16", "28", "14", "14"),
    ]  # fmt: skip
    shares = [(row["test ground in train"], row["test patches on it"], row["test places in train"]) for row in rows]
    assert shares == [("100.0%",) * 3, ("0.0%",) * 3]
    runs = {run.spec.split: run for run in map(open_run, sorted(sweep.glob("*_fake")))}
    found = {split: scores(run.evaluations["internal"].confusion)["pixel_accuracy"] for split, run in runs.items()}
    assert [row["over seeds"] for row in rows] == [f"{found[split]:.4f}" for split in ("random", "location")]
    assert all(re.fullmatch(r"0\.\d{4} \[\d\.\d{4}, \d\.\d{4}\]", row["pixel acc."]) for row in rows)
    assert between.rows[0][0] == "random - location"
    value, low, high = (float(end) for end in re.findall(r"[-+]\d\.\d{4}", between.rows[0][1]))
    assert value == pytest.approx(found["random"] - found["location"], abs=1e-4)
    assert low < value < high
    # The twelve last patches of the loose test lie in the strict one too, and a fake model learns nothing.
    assert between.rows[0][3:6] == ("12", "12", "+0.0000 [+0.0000, +0.0000]")
    text = (sweep / "leakage.md").read_text()
    assert "Simulated: measures the software" in text
    assert "whatever else differs" in text
    assert splits.title.endswith("2 splits of the 48 patches of tiny")

    capsys.readouterr()
    first = (sweep / "0_fake/evaluation/internal.json").stat().st_mtime_ns
    tabulate(str(sweep), sweep, sweep / "again", score="pixel_accuracy")
    assert (sweep / "0_fake/evaluation/internal.json").stat().st_mtime_ns == first  # no model was run again
    assert (sweep / "again/leakage.csv").read_text() == (sweep / "leakage.csv").read_text()


def test_a_gap_is_paired_where_both_test_the_same_place():
    """Of two equal tests of the same places the gap is 0 in every draw; of different places it is not."""
    random = np.random.default_rng(0)
    places = {f"p{n}": random.integers(1, 50, (3, 3)) for n in range(40)}
    one = split_score("random", {name: places[name] for name in sorted(places)[:20]})
    same = split_score("location", dict(one.places[0]))
    other = split_score("block", {name: places[name] for name in sorted(places)[20:]})
    paired, apart, _ = gaps([one, same, other], {name: name for name in places}, "pixel_accuracy", "all")
    assert (paired.found.low, paired.found.high, paired.both) == (0.0, 0.0, 20)
    assert (paired.same, paired.same_patches, paired.same_found.clusters) == (0.0, 20, 20)
    assert apart.both == apart.same_patches == 0
    assert apart.same_found is None
    assert np.isnan(apart.same)
    assert apart.found.low < apart.value < apart.found.high
    assert apart.p <= 1


def test_a_gap_is_as_sure_as_the_test_part_with_fewer_places():
    """Twelve places against sixty: the interval is at least that of Student with eleven degrees of freedom."""
    random = np.random.default_rng(0)
    few, many = (
        {f"{name}{n}": np.array([[hits := random.integers(1, 50), 50 - hits], [0, 0]]) for n in range(count)}
        for name, count in (("p", 12), ("q", 60))
    )
    (gap,) = gaps(
        [split_score("random", few), split_score("block", many)], {n: n for n in (*few, *many)}, "pixel_accuracy", "all"
    )
    assert gap.found.clusters == 12
    errors = [np.std([one[0, 0] / 50 for one in side.values()], ddof=1) / len(side) ** 0.5 for side in (few, many)]
    reach = (gap.found.high - gap.found.low) / 2
    # Welch's reach for two unpaired means is a little less: its degrees of freedom are never below eleven.
    assert reach == pytest.approx(scipy.stats.t.ppf(0.975, 11) * np.hypot(*errors), rel=0.1)


def test_few_places_give_no_interval():
    few = split_score("block", {f"p{n}": np.eye(2, dtype=np.int64) for n in range(4)}, interval=None)
    many = split_score("random", {f"q{n}": np.eye(2, dtype=np.int64) for n in range(20)})
    (gap,) = gaps([many, few], {f"{x}{n}": f"{x}{n}" for x in "pq" for n in range(20)}, "miou", "all")
    assert gap.found is None
    assert np.isnan(gap.p)
    assert "+0.0000 (fewer than 10 places)" in gap_table([gap], "miou").to_markdown()


def split_score(split, places, interval="some"):
    score = scores(sum(places.values()))["pixel_accuracy"]
    return SplitScore(
        split, (0,), 1, 1, (places,), (places,), len(places), 1, 0.0, 0.0, 0.0, Spread(score, score, score),
        bootstrap(places) if interval else None,
    )  # fmt: skip


def test_runs_that_differ_in_more_than_split_and_seed_are_refused(sweep, data, capsys):
    add(data, sweep, 6, "location", 2)
    assert [len(group) for group in by_split([open_run(path) for path in sorted(sweep.glob("*_fake"))]).values()] == [
        3,
        3,
    ]
    assert "seed 2 under split location is there already" in " ".join(capsys.readouterr().err.split())
    add(data, sweep, 7, "location", 3, lr=2)
    runs = [open_run(sweep / "0_fake"), open_run(sweep / "3_fake")]
    even = [
        dataclasses.replace(one, spec=dataclasses.replace(one.spec, split=f"{one.spec.split}_even")) for one in runs
    ]
    assert list(by_split(even)) == ["random_even", "location_even"]
    with pytest.raises(MismatchError, match="differ in lr"):
        tabulate(str(sweep), sweep)
    with pytest.raises(MismatchError, match="one split"):
        tabulate([str(sweep / "0_fake"), str(sweep / "1_fake")], sweep)
    with pytest.raises(ConfigError, match="no such score"):
        tabulate(str(sweep), sweep, score="f1")


def test_a_dataset_prepared_again_is_refused(sweep, data, tmp_path):
    path = add(data, tmp_path / "other", 0, "location", 0)
    spec = dataclasses.replace(open_run(path).spec, manifest_digest="1" * 64)
    run = dataclasses.replace(open_run(path), spec=spec)
    with pytest.raises(InputError, match="prepared again"):
        leakage._dataset(run)


def test_missing_splits_are_named_with_the_command(data, tmp_path):
    check_splits(data.root, ["random", "location"])
    with pytest.raises(InputError) as error:
        check_splits(data.root, ["random", "location", "block", "country"])
    assert "no split: 'block, country'" in str(error.value)
    assert f"python splits.py root={data.root}" in str(error.value)
    assert "dataset.split=random,location" in str(error.value)
    with pytest.raises(InputError, match=r"python prepare\.py"):
        check_splits(tmp_path, ["random", "location"])
    with pytest.raises(ConfigError, match="two or more"):
        check_splits(data.root, ["random"])


@pytest.mark.parametrize(
    ("words", "splits"),
    [
        ([], ["random", "location", "block", "country"]),
        (["dataset.split=random,block", "seed=0,1"], ["random", "block"]),
        (["dataset.split=location"], ["location"]),
    ],
)
def test_the_experiment_is_a_sweep_over_the_splits(repo, words, splits):
    with initialize_config_dir(str(repo / "conf"), version_base="1.3"):
        cfg = compose("train", ["experiment=leakage", "model=rf_spectral"], return_hydra_config=True)
    assert cfg.hydra.mode.name == "MULTIRUN"
    assert list(cfg.hydra.callbacks) == ["sweep", "leakage"]
    OmegaConf.set_readonly(cfg.hydra, False)
    cfg.hydra.overrides.task = ["experiment=leakage", *words]
    assert asked_splits(cfg) == splits


@pytest.mark.slow
def test_two_commands_from_a_dataset_to_the_table(repo, tmp_path):
    """As a user types them: missing splits are named, drawn, trained under, scored and put side by side."""
    root = make_dataset(tmp_path / "data", n=24, size=32).root

    def run(script, *words):
        command = [sys.executable, repo / script, *words, f"paths.runs={tmp_path / 'runs'}"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    forest = ("model=rf_spectral", "model.forest.n_estimators=2", "model.forest.n_jobs=1")
    train = ("experiment=leakage", "dataset=folder", f"dataset.root={root}", *forest)
    refused = run("train.py", *train, "seed=0,1")
    assert refused.returncode == 2
    assert f"python splits.py root={root}" in " ".join(refused.stderr.split())
    drawn = run("splits.py", f"root={root}")
    assert drawn.returncode == 0, drawn.stderr
    assert "split country is left out" in drawn.stderr
    assert {"location", "random"} <= {path.stem for path in root.glob("splits/*.parquet")}
    done = run("train.py", *train, "dataset.split=random,location", "seed=0,1")
    assert done.returncode == 0, done.stderr
    (table,) = (tmp_path / "runs").glob("*_leakage/leakage.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["split"], row["seeds"]) for row in rows] == [("random", "0, 1"), ("location", "0, 1")]
    again = run("leakage.py", f"run={table.parent}", f"out={tmp_path / 'out'}")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out/leakage.csv").read_text() == table.read_text()
