"""Make the embedded region: ``python simulate.py scale=demo seed=0``."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from cropseg import cli
from cropseg.core.progress import say
from data_prep.simulate import region


@cli.command("simulate")
def main(cfg: DictConfig) -> region.Summary:
    """Simulate what ``cfg.scale`` asks for."""
    settings = region.Settings.from_config(OmegaConf.to_container(cfg.scale.simulation, resolve=True))
    made = region.build(settings, Path(cfg.folder))
    rows = ", ".join(f"{name} {count} parcels" for name, count in made.subsets.items())
    say(f"{made.folder}: {len(made.products)} products; {rows}. {region.NOTE}")
    return made


if __name__ == "__main__":
    main()
