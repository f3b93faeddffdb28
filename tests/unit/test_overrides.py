"""What a command line is refused for before anything starts."""

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
        ("train", "model=rf_spatial model.windows=a", "give a list of numbers"),
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
        ("predict", "map.window=null map.confidence=true"),
    ],
)
def test_what_may_be_right_goes_on_to_hydra(command, words):
    check(CONF, command, words.split())
