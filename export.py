"""Write a run's network as ONNX and torch.export: python export.py run=latest format=both."""

from __future__ import annotations

from omegaconf import DictConfig

from cropseg import cli
from cropseg.export import export_run
from cropseg.runs import open_one


@cli.command("export")
def main(cfg: DictConfig) -> None:
    """Open the run, export and compare."""
    export_run(open_one(cfg.run, cfg.paths.runs), cfg.out, cfg.format)


if __name__ == "__main__":
    main()
