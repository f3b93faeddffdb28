"""Runs and evaluation sets in one table, from what is stored: python leaderboard.py 'run=[a,b]'."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from cropseg import cli
from cropseg.leaderboard import show


@cli.command("leaderboard")
def main(cfg: DictConfig) -> None:
    """Find the stored evaluations, print the table."""
    out = None if cfg.out is None else str(cfg.out)
    options = {"seeds": cfg.seeds, "sort": cfg.sort, "sets": _texts(cfg.sets), "out": out, "runs": cfg.paths.runs}
    show([cfg.paths.runs] if cfg.run is None else _texts(cfg.run), str(cfg.score), cfg.protocol, **options)


def _texts(value: Any) -> list[str] | None:
    """One or several words of an option."""
    return None if value is None else [str(one) for one in (value if OmegaConf.is_list(value) else [value])]


if __name__ == "__main__":
    main()
