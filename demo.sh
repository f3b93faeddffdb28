#!/usr/bin/env bash
# The whole way on the simulated region, by the commands that a user would type. Called by `make demo`.
set -euo pipefail
cd "$(dirname "$0")"

run() {
  printf '\n\033[1m$ %s\033[0m\n' "$*"
  "$@"
}

run python simulate.py
run python prepare.py workers=2
run python prepare.py region=embedded_unseen workers=2
run python prepare.py region=embedded_unseen_sparse workers=2
run python train.py experiment=demo hydra.run.dir=outputs/runs/demo_unet
run python train.py model=rf_spectral hydra.run.dir=outputs/runs/demo_forest
run python evaluate.py 'run=[outputs/runs/demo_unet,outputs/runs/demo_forest]' 'evaluation=[internal,unseen,unseen_sparse]'
run python predict.py run=outputs/runs/demo_unet product=unseen out=outputs/demo/crop_map.tif
run python report.py 'run=[outputs/runs/demo_unet,outputs/runs/demo_forest]' out=outputs/demo/report.html

printf '\n'
cat outputs/demo/report_scores.md
printf '\nDone. Simulated: measures the software, not crop mapping.\n'
printf 'crop map  %s\n' outputs/demo/crop_map.tif
printf 'report    %s\n' outputs/demo/report.html
