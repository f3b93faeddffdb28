"""Map the crops of a Sentinel-2 product: python predict.py run=latest product=<name or .SAFE folder> out=map.tif."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from cropseg import cli
from cropseg.predict import find_product, map_product, reading_of
from cropseg.runs import open_one
from data_prep.align import AlignedProduct
from data_prep.safe import open_product


@cli.command("predict")
def main(cfg: DictConfig) -> None:
    """Open the run and the product, map it."""
    run = open_one(cfg.run, cfg.paths.runs)
    path = find_product(cfg.product, Path(cfg.paths.cache), Path(cfg.paths.data))
    reading = {"resolution": int(run.spec.resolution), **reading_of(run, cfg.align)}
    with AlignedProduct(open_product(path), run.spec.bands, **reading) as scene:
        map_product(run, scene, cfg.out, Path(cfg.paths.root), tta=cfg.tta, devices=cfg.devices, **cfg.map)


if __name__ == "__main__":
    main()
