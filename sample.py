"""Draw points from a crop map, to find out how right it is and how much grows: python sample.py map=<GeoTIFF>."""

from __future__ import annotations

from hydra.utils import instantiate
from omegaconf import DictConfig

from cropseg import cli
from cropseg.draw import draw_sample
from cropseg.maps import checked_map


@cli.command("sample")
def main(cfg: DictConfig) -> None:
    """Open the map, draw, write."""
    draw_sample(checked_map(cfg.map), cfg.out, instantiate(cfg.design), instantiate(cfg.taxonomy), cfg.legend)


if __name__ == "__main__":
    main()
