"""What a command line is refused for before anything starts."""

import re
import shlex
from pathlib import Path

import pytest

from cropseg.core.errors import ConfigError
from cropseg.overrides import check

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.mark.parametrize(
    ("command", "words", "says"),
    [
        ("train", "dataset.batch_size=abc", "option dataset.batch_size: 'abc'. give a whole number"),
        ("train", "dataset.batch_size=1.5", "give a whole number"),
        ("train", "seed=true", "option seed: True. give a whole number"),
        ("train", "epochs=null", "option epochs: 'null'. give a whole number"),
        ("train", "-m seed=1,abc", "option seed: 'abc'"),
        ("train", "optimizer.lr=nan", "option optimizer.lr: nan. give a number"),
        ("train", "scheduler=cosine scheduler.eta_min=abc", "give a number"),
        ("train", "callbacks=early_stopping callbacks.early_stopping.patience=abc", "give a whole number"),
        ("train", "-m model=unet4gn,rf_spectral dataset.augment=maybe", "give true or false"),
        ("train", "model=rf_spatial model.windows=5", "give a list"),
        ("train", "model=rf_spatial model.windows=[a]", "give a list of numbers"),
        ("train", "trainer=ddp trainer.strategy=3", r"give what is in it: strategy\.<key>"),
        ("train", "logger=mlflow logger.mlflow.uri=5", "give one word"),
        ("train", "loss.terms.dice=3", r"give what is in it: dice\.<key>"),
        ("train", "logger=[]", r"option logger: '\[\]'. choose from .*csv"),
        ("train", "logger=[csv,nope]", r"option logger: \['nope'\]. choose from .*csv"),
        ("train", "init_from=3", "option init_from: 3. give one word"),
        ("predict", "map.scl_invalid=5", "give a list"),
        ("predict", "map.mask_clouds=1", "give true or false"),
        ("predict", "product=5", "give one word"),
        ("report", "out=5", "give one word"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(command, words, says):
    with pytest.raises(ConfigError, match=says):
        check(CONF, command, words.split())


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train", ""),
        ("train", "experiment=debug trainer.limit_train_batches=0.5 optimizer.lr=1 trainer.devices=2"),
        ("train", "trainer.deterministic=warn trainer.precision=32 dataset.train_crop=64 ~callbacks.panels"),
        ("train", "-m search=unet4gn_lr optimizer.lr=interval(1e-4,1e-2) seed=range(3) model=unet4gn,smp_unet"),
        ("train", "logger=[csv,tensorboard] hydra.run.dir=5 seed=${oc.env:SEED,3}"),
        ("train", "+loss@loss.terms.focal=focal +loss.weights.focal=1"),
        ("train", "loss.terms.ce.weights={_target_:cropseg.losses.Weights}"),
        ("train", "no_such=3"),
        ("train", "model=no_such"),
        ("train", "seed=[1"),
        ("train", "--help seed=abc"),
        ("evaluate", "run=[a,b] devices=auto evaluation=[internal,unseen]"),
        ("evaluate", "run={_target_:a.B} map=x.tif"),
        ("curves", "formats=png"),
        ("train", "loss=ce loss.weights=inverse_frequency"),
        ("train", "loss.terms.ce.weights=median_frequency"),
        ("train", "-m loss=ce,focal loss.weights=null,inverse_frequency"),
        ("train", "trainer=gpu trainer.devices=auto"),
        ("train", "trainer.devices=[0,1] trainer.num_sanity_val_steps=null trainer.log_every_n_steps=null"),
        ("train", "trainer=ddp trainer.strategy=ddp dataset.num_workers=null"),
        ("train", "optimizer.betas=[0.9,${oc.env:B2,0.999}]"),
        ("train", """-m init_from="runs/a b","runs/b" resume='auto',null"""),
        ("evaluate", "evaluation=[internal,mine] hydra.searchpath=[file:///somewhere]"),
        ("sample", "expected_accuracy={maize:0.9}"),
        ("prepare", "importer=folder importer.values.nodata=[0,nan]"),
        ("predict", "map.window=null map.confidence=true"),
    ],
)
def test_what_may_be_right_goes_on_to_hydra(command, words):
    check(CONF, command, re.split(r" (?=[^ ]+=)", words) if words else [])


def documented():
    """The commands of the documents, but for those with gaps to fill in."""
    pages = [CONF.parent / "README.md", *sorted((CONF.parent / "docs").rglob("*.md"))]
    lines = {line for page in pages for line in re.findall(r"python ([a-z_]+)\.py ([^`#|\n]*)", page.read_text())}
    for command, rest in sorted(lines):
        if (CONF / f"{command}.yaml").is_file() and not re.search(r"[<…&]|\.\.\.", rest):
            try:
                yield command, tuple(shlex.split(rest))
            except ValueError:  # a quote that ends on another line
                continue


def test_no_documented_command_is_refused():
    commands = list(documented())
    assert len(commands) > 50
    for command, words in commands:
        check(CONF, command, words)
