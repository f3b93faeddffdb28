"""The table and the picture of a sweep: python sweep.py run=latest; see conf/sweep.yaml."""

from __future__ import annotations

from omegaconf import DictConfig

from cropseg import cli
from cropseg.sweeps.jobs import summarise


@cli.command("sweep")
def main(cfg: DictConfig) -> None:
    """Read the jobs, print them, write CSV and PNG."""
    summarise(cfg.run, cfg.paths.runs, cfg.out)


if __name__ == "__main__":
    main()
