"""Draw score against number of labelled parcels: python learning_curve.py run=<sweep>; see conf/learning_curve.yaml."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from cropseg import cli
from cropseg.learning_curve import draw
from cropseg.runs import open_runs


@cli.command("learning_curve")
def main(cfg: DictConfig) -> None:
    """Open the runs, draw them."""
    out = Path(cfg.paths.root, "outputs", "learning_curve") if cfg.out is None else Path(cfg.out)
    draw(open_runs(cfg.run, cfg.paths.runs), out, cfg.score)


if __name__ == "__main__":
    main()
