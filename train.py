"""Train a model: python train.py model=unet4gn loss=ce_dice; see conf/train.yaml."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from cropseg import cli, resume
from data_prep.ensure import ensure

GROUPS = ("loss", "optimizer", "scheduler", "trainer", "callbacks", "logger", "init_from", "freeze_encoder")


@cli.command("train")
def main(cfg: DictConfig) -> float:
    """Fit the model on the dataset; its validation score, which sweeps maximise."""
    cli.refuse_unused(cfg, "model", GROUPS)
    if (stored := resume.begin(cfg)) is not None:
        return stored
    if HydraConfig.get().runtime.choices["dataset"] == "embedded":
        ensure(Path(cfg.dataset.root), split=cfg.dataset.split)
    data = instantiate(cfg.dataset)
    predictor = instantiate(cfg.model).fit(data, Path(cfg.run_dir))
    return resume.finish(cfg, predictor.validation_score)


if __name__ == "__main__":
    main()
