"""Add splits to a finished dataset: python splits.py root=<dataset>; see conf/splits.yaml."""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from cropseg import cli
from data_prep import more_splits
from data_prep.ensure import EMBEDDED, ensure


@cli.command("splits")
def main(cfg: DictConfig) -> None:
    """Draw what is missing; the simulated dataset is made on first use."""
    root = Path(cfg.root)
    if root.name in EMBEDDED:
        ensure(root)
    more_splits.add(root, {name: instantiate(one) for name, one in cfg.splits.items()}, even=cfg.even, seed=cfg.seed)


if __name__ == "__main__":
    main()
