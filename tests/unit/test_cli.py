import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from cropseg import cli
from cropseg.core.errors import ConfigError, InputError

SCRIPT = """
from cropseg import cli
from cropseg.core.errors import InputError

@cli.command("root")
def main(cfg):
    if cfg.fail == "input":
        raise InputError("no such file", cfg.path, "check the path")
    if cfg.fail == "os":
        open(cfg.path)
    if cfg.fail == "defect":
        [][1]
    if cfg.fail == "nested":
        from hydra.utils import instantiate
        instantiate({"_target_": "cropseg.core.taxonomy.load", "name": cfg.path})
    if cfg.fail == "target":
        from hydra.utils import instantiate
        instantiate({"_target_": "cropseg.core.taxonomy.no_such_thing"})

if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    (folder / "conf").mkdir()
    (folder / "conf" / "root.yaml").write_text("fail: null\npath: /no/such/place\nhydra: {run: {dir: out}}\n")
    (folder / "app.py").write_text(SCRIPT)
    return folder / "app.py"


@pytest.mark.parametrize(
    ("overrides", "code", "parts"),
    [
        ((), 0, ()),
        (("fail=input",), 2, ("error: no such file: '/no/such/place'. check the path",)),
        (("fail=os",), 2, ("No such file or directory", "/no/such/place")),
        (("fail=nested", "path=nonsense"), 2, ("no such taxonomy: 'nonsense'",)),
        (("fail=target",), 2, ("no_such_thing",)),
        (("nonsense=1",), 2, ("nonsense",)),
        (("fail",), 2, ("fail",)),
    ],
)
def test_what_the_user_can_mend_is_one_line(script, overrides, code, parts):
    done = subprocess.run(
        [sys.executable, script, *overrides], capture_output=True, text=True, cwd=script.parent, check=False
    )
    assert done.returncode == code, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == (0 if code == 0 else 1), done.stderr
    assert all(part in done.stderr for part in parts), done.stderr
    assert "To append" not in done.stderr  # a misspelt option would become a new one, which nobody reads


def test_a_defect_keeps_its_traceback(script):
    done = subprocess.run(
        [sys.executable, script, "fail=defect"], capture_output=True, text=True, cwd=script.parent, check=False
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "IndexError" in done.stderr


def test_set_but_unused_group_is_named():
    cfg = OmegaConf.create({"model": {"net": 1, "trainer": "${trainer}"}, "loss": {"x": 1}, "trainer": {"y": 2}})
    cli.refuse_unused(cfg, "model", ["trainer"])
    with pytest.raises(ConfigError, match="loss is set but model does not use it"):
        cli.refuse_unused(cfg, "model", ["loss", "trainer"])
    cfg.loss = None
    cli.refuse_unused(cfg, "model", ["loss", "trainer"])


def test_the_cause_is_found_behind_wrappers():
    error = RuntimeError("in a worker")
    error.__cause__ = InputError("broken", "x.tif", "download it again")
    assert cli.explain(error) == "error: broken: 'x.tif'. download it again"


def test_a_circular_chain_of_errors_ends():
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__cause__, other.__context__ = other, one
    assert cli.explain(KeyboardInterrupt()) is not None
    error = OSError(2, "No such file or directory", "x")
    error.__cause__ = one
    assert "No such file" in cli.explain(error)


def test_a_job_of_a_sweep_does_not_start_from_the_one_before():
    cli.refuse_latest(OmegaConf.create({"init_from": "outputs/runs/a"}))
    cli.refuse_latest(OmegaConf.create({"seed": 1}))
    with pytest.raises(ConfigError, match="run's folder"):
        cli.refuse_latest(OmegaConf.create({"init_from": "latest"}))


def test_an_error_of_a_loaders_process_is_one_line():
    text = "Caught InputError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  x\n"
    error = InputError(f"{text}cropseg.core.errors.InputError: patch file is missing: a.npy. run prepare.py again\n")
    assert cli.explain(error) == "error: patch file is missing: a.npy. run prepare.py again"


def test_stopping_says_what_comes_next():
    assert "run the same command to go on" in cli.explain(KeyboardInterrupt())
    assert cli.explain(KeyboardInterrupt("training starts anew")) == "stopped: training starts anew"
