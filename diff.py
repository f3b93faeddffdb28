"""Where two runs differ: python diff.py run=[a,b]; see conf/diff.yaml."""

from __future__ import annotations

from omegaconf import DictConfig

from cropseg import cli
from cropseg.core.errors import ConfigError
from cropseg.diff import show
from cropseg.runs import open_runs


@cli.command("diff")
def main(cfg: DictConfig) -> None:
    """Open both runs and print what is not the same."""
    runs = [] if cfg.run is None else open_runs(cfg.run, cfg.paths.runs)
    if len(runs) != 2:
        raise ConfigError("diff.py takes two runs", [run.name for run in runs], "give run=[<folder>,<folder>]")
    show(*runs)


if __name__ == "__main__":
    main()
