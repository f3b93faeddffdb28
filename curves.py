"""Draw the paper's Figure 3 of finished runs: python curves.py run=latest out=curves.png; see conf/curves.yaml."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from cropseg import cli
from cropseg.curves import draw
from cropseg.runs import open_runs


@cli.command("curves")
def main(cfg: DictConfig) -> None:
    """Open the runs, write the figure."""
    out = Path(cfg.paths.root, "outputs", "curves") if cfg.out is None else Path(cfg.out)
    formats = [cfg.formats] if isinstance(cfg.formats, str) else list(cfg.formats)
    draw(open_runs(cfg.run, cfg.paths.runs), out, formats=formats, miou=cfg.miou, mean=cfg.mean, x=cfg.x)


if __name__ == "__main__":
    main()
