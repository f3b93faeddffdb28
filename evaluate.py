"""Score models on evaluation sets, or a map on parcels: python evaluate.py run=latest evaluation=[internal,unseen]."""

from __future__ import annotations

from hydra.utils import instantiate
from omegaconf import DictConfig

from cropseg import cli
from cropseg.evaluate import evaluate_runs
from cropseg.external import open_models
from cropseg.maps import score_map


@cli.command("evaluate")
def main(cfg: DictConfig) -> None:
    """Open the models, build the sets, score; or lay a map on parcels."""
    out = None if cfg.out is None else str(cfg.out)
    if cfg.map is not None:
        score_map(str(cfg.map), instantiate(cfg.truth), cfg.legend, out)
        return
    sets = [instantiate(one) for one in (cfg.evaluation or {}).values()]
    runs = open_models(cfg.run, cfg.paths.runs, out)
    evaluate_runs(runs, sets, cfg.batch_size, cfg.tta, calibration=cfg.calibration, devices=cfg.devices)


if __name__ == "__main__":
    main()
