"""Prepare a dataset: python prepare.py region=own source=cdse …; see conf/prepare.yaml."""

from hydra.utils import instantiate
from omegaconf import DictConfig

from cropseg import cli
from data_prep import pipeline


@cli.command("prepare")
def main(cfg: DictConfig) -> None:
    """From parcels and a season, or from a foreign benchmark, to a dataset."""
    if cfg.get("importer") is None:  # a group of null leaves no key
        pipeline.run(cfg)
    else:
        instantiate(cfg.importer)


if __name__ == "__main__":
    main()
