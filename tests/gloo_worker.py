"""One of two processes that take a step together, with net and loss of that step: python gloo_worker.py RANK FOLDER."""

import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from cropseg.learners import joint
from cropseg.losses import CrossEntropy, Dice, RunningLoss, WeightedSum

CLASSES = 11


def tiny_net():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(10, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Dropout(0.0), nn.Conv2d(8, CLASSES, 1)
    )


def loss_of():
    weights = [0.5 + 0.1 * c for c in range(CLASSES)]
    return WeightedSum({"ce": CrossEntropy(weights), "dice": Dice()}, {"ce": 1.0, "dice": 0.4})


def gradient_of(net):
    return torch.cat([p.grad.flatten() for p in net.parameters()])


def main(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {}
    for name, (x, target) in torch.load(folder / "cases.pt", weights_only=True).items():
        x, target = x[rank::2], target[rank::2]
        net, loss = tiny_net(), loss_of()
        wrapped = DistributedDataParallel(net)  # adds gradients up as long as it lives
        value = loss.value(joint.for_training(loss.sums(wrapped(x), target)))
        value.backward()
        running = RunningLoss(loss)
        with torch.no_grad():
            for one in range(len(x)):  # as many batches as there are: 3 here, 2 there
                running.update(loss.sums(net(x[one : one + 1]), target[one : one + 1]))
        running.sums = joint.summed(running.sums)
        over_the_set = torch.tensor(running.compute())
        found[name] = {"value": value.detach(), "gradient": gradient_of(net), "set": over_the_set}
    norm = nn.BatchNorm2d(3)
    norm.running_mean += rank
    joint.share_buffers(norm)
    found["rest"] = {"rows": torch.tensor(joint.gathered([rank] * (rank + 1))), "mean": norm.running_mean}
    torch.save(found, folder / f"found{rank}.pt")
    distributed.barrier()  # one that leaves while the other still listens can take it down
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
