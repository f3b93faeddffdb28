"""Write a page, Markdown and LaTeX about finished runs: python report.py run=[a,b] out=report.html."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from cropseg import cli
from cropseg.report.build import build_report
from cropseg.runs import open_runs


@cli.command("report")
def main(cfg: DictConfig) -> None:
    """Open the runs, write the page."""
    out = Path(cfg.paths.root, "outputs", "report.html") if cfg.out is None else cfg.out
    build_report(open_runs(cfg.run, cfg.paths.runs), out, title=cfg.title, panels=cfg.panels)


if __name__ == "__main__":
    main()
