"""Accuracy and class areas from the points of sample.py, filled in: python area.py sample=<points.gpkg>."""

from __future__ import annotations

from omegaconf import DictConfig

from cropseg import cli
from cropseg.area_report import report_areas


@cli.command("area")
def main(cfg: DictConfig) -> None:
    """Read the points, estimate."""
    report_areas(cfg.sample, cfg.out)


if __name__ == "__main__":
    main()
