"""The table of experiment=leakage: python leakage.py run=<its sweep>; see conf/leakage.yaml."""

from __future__ import annotations

from omegaconf import DictConfig

from cropseg import cli
from cropseg.leakage import tabulate


@cli.command("leakage")
def main(cfg: DictConfig) -> None:
    """Score what is not scored yet, put the splits side by side."""
    tabulate(cfg.run, cfg.paths.runs, cfg.out, cfg.score, cfg.protocol, cfg.batch_size)


if __name__ == "__main__":
    main()
