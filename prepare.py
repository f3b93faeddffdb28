"""Prepare a dataset: python prepare.py region=own source=cdse …; see conf/prepare.yaml."""

from omegaconf import DictConfig

from cropseg import cli
from data_prep import pipeline


@cli.command("prepare")
def main(cfg: DictConfig) -> None:
    """From parcels and a season to a dataset."""
    pipeline.run(cfg)


if __name__ == "__main__":
    main()
