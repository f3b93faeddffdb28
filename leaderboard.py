"""Runs and evaluation sets in one table, from what is stored: python leaderboard.py 'run=[a,b]'."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from cropseg import cli
from cropseg.leaderboard import show


@cli.command("leaderboard")
def main(cfg: DictConfig) -> None:
    """Find the stored evaluations, print the table."""
    run = cfg.paths.runs if cfg.run is None else cfg.run
    paths = [str(one) for one in (run if OmegaConf.is_list(run) else [run])]
    options = {"seeds": cfg.seeds, "sort": cfg.sort, "sets": cfg.sets, "out": cfg.out, "runs": cfg.paths.runs}
    show(paths, cfg.score, cfg.protocol, **options)


if __name__ == "__main__":
    main()
