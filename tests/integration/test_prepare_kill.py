"""A preparation that is killed, at any moment and again and again, ends with the same bytes as one left alone."""

import os
import random
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
from embedded import REPO, tiny_data
from hydra import compose, initialize_config_dir

from cropseg.core import storage
from data_prep import pipeline

RESULTS = ("manifest.parquet", "candidates.parquet", "splits/location.parquet", "splits/location.json", "dataset.json")


def options(data: Path) -> list[str]:
    """A few regions of the small simulation, read in place from the unpacked products."""
    return [
        "prepare_as=tiny", "source=local", "source.simulated=true", "source.folder=" + str(tiny_data() / "cache"),
        "region.subsets.names=[emb_north]", "region.subsets.folder=" + str(tiny_data() / "simulated" / "test"),
        "rois.limit=4", "limits.products_per_roi=1", "split.cell_m=640", f"paths.data={data}",
    ]  # fmt: skip


def config(data: Path):
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        return compose("prepare", options(data))


def digests(data: Path) -> dict[str, str]:
    return {name: storage.sha256(data / "embedded" / name) for name in RESULTS}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, str]:
    data = tmp_path_factory.mktemp("undisturbed")
    pipeline.run(config(data))
    return digests(data)


def run_and_die(data: Path, moment: int) -> bool:
    """Run in a forked process that ends without any clean-up at its ``moment``-th flush or rename; whether it died."""
    child = os.fork()
    if child == 0:
        seen = 0

        def counted(call, before: bool):
            def wrapper(*args, **kwargs):
                nonlocal seen
                seen += 1
                if seen == moment and before:
                    os._exit(137)
                result = call(*args, **kwargs)
                if seen == moment:
                    os._exit(137)
                return result

            return wrapper

        try:
            os.fsync = counted(os.fsync, before=moment % 2 == 0)
            Path.replace = counted(Path.replace, before=moment % 2 == 0)
            pipeline.run(config(data))
            os._exit(0)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 137)
    return code == 137


def test_killed_at_chosen_moments(tmp_path, undisturbed):
    """Each run gets a little farther than the one before, and dies in the middle of a write."""
    random.seed(1)
    moment, deaths = 1, 0
    while run_and_die(tmp_path, moment):
        deaths += 1
        moment += random.randint(8, 25)
    assert deaths >= 3
    assert digests(tmp_path) == undisturbed
    assert not list((tmp_path / "embedded").rglob("*.part*"))


def test_missing_patch_files_are_made_again(tmp_path, undisturbed):
    pipeline.run(config(tmp_path))
    lost = sorted((tmp_path / "embedded" / "shards").rglob("*.image.npy"))[::3]
    for path in lost:
        path.unlink()
    pipeline.run(config(tmp_path))
    assert all(path.is_file() for path in lost)
    assert digests(tmp_path) == undisturbed


def test_several_workers_give_the_same(tmp_path, undisturbed):
    cfg = config(tmp_path)
    cfg.workers = 2
    pipeline.run(cfg)
    assert digests(tmp_path) == undisturbed


@pytest.mark.slow
def test_killed_by_signal_at_random_moments(tmp_path, undisturbed):
    command = [sys.executable, str(REPO / "prepare.py"), *options(tmp_path), f"paths.root={tmp_path}", "workers=2"]
    random.seed(time.time_ns())
    for _ in range(5):
        process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.uniform(3, 15))
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path) == undisturbed
