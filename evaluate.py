"""Score finished runs on evaluation sets: python evaluate.py run=latest evaluation=[internal,unseen]."""

from __future__ import annotations

from hydra.utils import instantiate
from omegaconf import DictConfig

from cropseg import cli
from cropseg.evaluate import evaluate_runs
from cropseg.runs import open_runs


@cli.command("evaluate")
def main(cfg: DictConfig) -> None:
    """Open the runs, build the sets, score."""
    sets = [instantiate(one) for one in (cfg.evaluation or {}).values()]
    evaluate_runs(open_runs(cfg.run, cfg.paths.runs), sets, cfg.batch_size, cfg.tta)


if __name__ == "__main__":
    main()
