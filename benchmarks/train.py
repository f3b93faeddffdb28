"""What a training step costs: against a bare loop, against torchgeo, setting by setting, and the loader alone.

    python benchmarks/train.py [--base 48] [--size 256] [--batch 2] [--steps 8] [--rounds 5] [--all] [--profile]

Everything runs in one process on the device that is there, in turns, so that what else the machine does hits all
alike; each figure is a ratio of medians over the rounds, with the lowest and the highest ratio of one round. A step is
taken from the end of the one before, so what the loader makes it wait for is in it. The other sides:

- the bare loop has the same network, loss formulas, augmentation and optimiser, and the plainest reading;
- torchgeo's ``SemanticSegmentationTask`` has the same network and patches with its usual data module (normalisation
  and flips by kornia), but cross-entropy alone: it has no Dice beside it. Left out where it is not installed
  (``pip install cropseg[bench]``).

``--all`` also tries bf16 on a processor, where it is emulated and can take minutes. On a GPU the projected hours for
the paper's run and the share of the measured bf16 matrix rate are printed as well. ``--profile`` prints where the time
of our step goes, by operator.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import lightning as L
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.nn import functional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cropseg.core.progress import table  # noqa: E402
from cropseg.models.unet4gn import UNet4LevelsGN  # noqa: E402
from tests.factory import make_dataset  # noqa: E402

WEIGHTS = [0.25, 1.0, 1.5, 0.75, 1.0, 3.0, 2.5, 1.5, 2.0, 3.0, 1.0]  # Table 4
PAPER_PATCHES, PAPER_EPOCHS = 53_888, 260
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
WARM_UP = 2


def now():
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


class Timer(L.Callback):
    """Seconds a step, the first ones left out."""

    def __init__(self):
        self.marks = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx + 1 >= WARM_UP:
            # Waiting for the GPU at the first and the last mark alone: a step in between runs ahead as it always does.
            last = batch_idx + 1 == trainer.num_training_batches
            self.marks.append(now() if batch_idx + 1 == WARM_UP or last else time.perf_counter())

    @property
    def seconds(self):
        return (self.marks[-1] - self.marks[0]) / (len(self.marks) - 1)


def ours(args, root, *overrides):
    """Seconds a step of ``train.py`` with these overrides."""
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(
            "train",
            [
                "dataset=folder", f"dataset.root={root}", f"run_dir={folder}", f"model.net.base={args.base}",
                f"dataset.batch_size={args.batch}", "epochs=1", f"+trainer.limit_train_batches={args.steps + WARM_UP}",
                "+trainer.limit_val_batches=1", *overrides,
            ],
        )  # fmt: skip
        learner, timer = instantiate(cfg.model), Timer()
        learner.callbacks = {**learner.callbacks, "timer": timer}
        learner.fit(instantiate(cfg.dataset), Path(folder))
    return timer.seconds


class Plain(torch.utils.data.Dataset):
    """The plainest reading: two files a patch."""

    def __init__(self, root, rows=None):
        images = sorted(Path(root, "shards").rglob("*.image.npy"))
        self.images = images if rows is None else images[:rows]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        path = self.images[index]
        image = np.load(path, allow_pickle=False)
        mask = np.load(path.with_name(path.name.replace(".image.", ".mask.")), allow_pickle=False)
        return torch.from_numpy(image), torch.from_numpy(mask)


def bare(args, root):
    """Seconds a step of a loop without any framework."""
    net = UNet4LevelsGN(base=args.base).to(DEVICE)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    weights = torch.tensor(WEIGHTS, device=DEVICE)
    loader = torch.utils.data.DataLoader(
        Plain(root), args.batch, shuffle=True, drop_last=True, num_workers=args.workers, pin_memory=CUDA
    )
    marks = []
    for step, (image, mask) in enumerate(itertools.islice(loader, args.steps + WARM_UP)):
        x = image.to(DEVICE, non_blocking=True).float() / 10_000
        y = mask.to(DEVICE, non_blocking=True).long()
        for axis in (-1, -2):
            if torch.rand(()) < 0.5:
                x, y = x.flip(axis), y.flip(axis)
        logits = net(x)
        p = logits.softmax(1)
        t = functional.one_hot(torch.where(y == 255, 0, y), 11).movedim(-1, 1) * (y != 255)[:, None]
        dice = 2 * (p * t).sum((0, 2, 3)) / ((p + t) * (y != 255)[:, None]).sum((0, 2, 3)).clamp(min=1e-6)
        present = t.sum((0, 2, 3)) > 0
        present[0] = False
        loss = functional.cross_entropy(logits, y, weights, ignore_index=255) + 0.4 * (1 - dice[present].mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step + 1 == WARM_UP or step + 1 == args.steps + WARM_UP:
            marks.append(now())
    return (marks[1] - marks[0]) / args.steps


def torchgeo_step(args, root):
    """Seconds a step of torchgeo's task and data module."""
    import kornia.augmentation as K
    from torchgeo.datamodules import NonGeoDataModule
    from torchgeo.datasets import NonGeoDataset
    from torchgeo.trainers import SemanticSegmentationTask

    class Patches(Plain, NonGeoDataset):
        def __init__(self, split="train", root=None):
            super().__init__(root)

        def __getitem__(self, index):
            image, mask = super().__getitem__(index)
            return {"image": image.float(), "mask": mask.long()}

    class Module(NonGeoDataModule):
        mean, std = torch.zeros(10), torch.full((10,), 10_000.0)

        def __init__(self):
            super().__init__(Patches, args.batch, args.workers, root=root)
            self.train_aug = K.AugmentationSequential(
                K.Normalize(mean=self.mean, std=self.std), K.RandomHorizontalFlip(0.5), K.RandomVerticalFlip(0.5),
                data_keys=None, keepdim=True,
            )  # fmt: skip

    task = SemanticSegmentationTask("unet", "resnet18", in_channels=10, num_classes=11, ignore_index=255,
                                    class_weights=torch.tensor(WEIGHTS))  # fmt: skip
    task.model = UNet4LevelsGN(base=args.base)
    timer = Timer()
    trainer = L.Trainer(
        max_epochs=1, limit_train_batches=args.steps + WARM_UP, limit_val_batches=1, callbacks=[timer], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        accelerator="auto", devices=1,
    )  # fmt: skip
    trainer.fit(task, datamodule=Module())
    return timer.seconds


def reading(args, root, *, plain):
    """Patches a second of a loader alone."""
    if plain:
        batches = torch.utils.data.DataLoader(Plain(root), args.batch, num_workers=args.workers, shuffle=True)
    else:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("train", ["dataset=folder", f"dataset.root={root}", f"dataset.batch_size={args.batch}",
                                    f"dataset.num_workers={args.workers}"])  # fmt: skip
        data = instantiate(cfg.dataset)
        data.setup()
        batches = data.train_dataloader()
    rounds = 1 if len(batches) > 100 else 3
    iterator = itertools.chain.from_iterable(batches for _ in range(rounds))
    next(iterator)
    start, seen = time.perf_counter(), 0
    for _ in iterator:
        seen += args.batch
    return seen / (time.perf_counter() - start)


def matrix_rate():
    """Measured bf16 rate of a large matrix product, floating-point operations a second."""
    a = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    start = now()
    for _ in range(20):
        a @ a
    return 20 * 2 * 8192**3 / (now() - start)


def step_flops(args, batch):
    from torch.utils.flop_counter import FlopCounterMode

    net = UNet4LevelsGN(base=args.base).to(DEVICE)
    with FlopCounterMode(display=False) as counter:
        net(torch.rand(batch, 10, args.size, args.size, device=DEVICE)).sum().backward()
    return counter.get_total_flops()


def turns(args, sides):
    """Seconds by side, measured in turns, the order reversed every other round."""
    found = {name: [] for name in sides}
    for round_ in range(args.rounds):
        for name in list(sides)[:: -1 if round_ % 2 else 1]:
            found[name].append(sides[name]())
    return found


def ratio(above, below):
    each = [a / b for a, b in zip(above, below, strict=True)]
    return f"{statistics.median(above) / statistics.median(below):.3f} ({min(each):.3f} … {max(each):.3f})"


def settings(args):
    """Our settings, one by one and together: overrides and batch size."""
    large = 32 if CUDA else args.batch * 4
    found = {
        f"fp32, eager, batch {args.batch} (the paper's)": ([], args.batch),
        f"batch {large}": ([f"dataset.batch_size={large}"], large),
        "channels-last": (["model.channels_last=true"], args.batch),
        "compile": (["model.compile=true"], args.batch),
    }
    if CUDA or args.all:
        found["bf16"] = (["trainer.precision=bf16-mixed"], args.batch)
    if CUDA:
        found["experiment=fast"] = (["+experiment=fast", "trainer.limit_train_batches=40"], None)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=int, default=48, help="width of the network (Table 5)")
    parser.add_argument("--size", type=int, default=256, help="window in pixels")
    parser.add_argument("--batch", type=int, default=2, help="patches a step (Table 5)")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=8 if CUDA else 0)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    L.seed_everything(0, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        # Enough patches for all steps of the largest batch.
        make_dataset(Path(folder), n=round(1.3 * (args.steps + WARM_UP) * (32 if CUDA else args.batch * 4)) + 8,
                     size=args.size, parts={"train": 0.9, "val": 0.1})  # fmt: skip
        compare(args, folder)


def compare(args, folder):
    device = torch.cuda.get_device_name() if CUDA else f"processor, {torch.get_num_threads()} threads"
    shape = f"base {args.base}, {args.size} px, batch {args.batch}, {args.steps} steps, {args.rounds} rounds, {device}"
    sides = {"ours": lambda: ours(args, folder), "bare loop": lambda: bare(args, folder)}
    try:
        import torchgeo  # noqa: F401

        sides["torchgeo"] = lambda: torchgeo_step(args, folder)
    except ImportError:
        print("torchgeo is not installed: pip install cropseg[bench]")
    for side in sides.values():
        side()  # first use of everything
    found = turns(args, sides)
    rows = [[name, f"{statistics.median(s):.3f}", ratio(found["ours"], s)] for name, s in found.items()]
    table(f"A step: {shape}", ["side", "s a step", "ours / side (lowest … highest round)"], rows)

    options = settings(args)
    seconds, batches = {}, {}
    for name, (overrides, batch) in options.items():
        try:
            seconds[name], batches[name] = ours(args, folder, *overrides), batch
        except torch.cuda.OutOfMemoryError:
            print(f"{name}: out of memory")
    for _ in range(args.rounds - 1):
        for name in seconds:
            seconds[name] = min(seconds[name], ours(args, folder, *options[name][0]))
    rate = {name: (batches[name] or fast_batch()) / s for name, s in seconds.items()}
    first = next(iter(rate.values()))
    rows = []
    for name, per_second in rate.items():
        row = [name, f"{per_second:.2f}", f"{per_second / first:.2f}"]
        rows.append([*row, f"{PAPER_EPOCHS * PAPER_PATCHES / per_second / 3600:.1f}"])
    table("Settings, the best round of each", ["setting", "patches/s", "× the paper's", "h for the paper's run"], rows)

    plain = [reading(args, folder, plain=True) for _ in range(args.rounds)]
    own = [reading(args, folder, plain=False) for _ in range(args.rounds)]
    consumed = max(rate.values())
    loader = statistics.median(own)
    table("The loader alone", ["side", "patches/s", "ours / side"], [
        ["ours", f"{loader:.0f}", "1"],
        ["bare np.load loop", f"{statistics.median(plain):.0f}", ratio(own, plain)],
        ["the fastest setting consumes", f"{consumed:.1f}", f"{loader / consumed:.1f} (headroom)"],
    ])  # fmt: skip
    if CUDA:
        flops = step_flops(args, 1) * consumed
        chip = matrix_rate()
        print(f"{flops / 1e12:.1f} TFLOP/s of {chip / 1e12:.0f} measured in bf16 products: {flops / chip:.1%}")
    if args.profile:
        with torch.profiler.profile() as profile:
            ours(args, folder)
        by = "self_cuda_time_total" if CUDA else "self_cpu_time_total"
        print(profile.key_averages().table(sort_by=by, row_limit=15))


def fast_batch():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", ["+experiment=fast"]).dataset.batch_size


if __name__ == "__main__":
    main()
