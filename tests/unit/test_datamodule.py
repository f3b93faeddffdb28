"""Loaders: what a batch holds, and that it depends on (seed, epoch, patch) and on nothing else."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from factory import make_dataset

from cropseg.core.errors import ConfigError, InputError
from cropseg.data.datamodule import CropDataModule
from cropseg.data.dataset import EpochSampler, PatchDataset


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tiny"
    make_dataset(folder, n=15, size=32)
    return folder


def module(root, **options):
    data = CropDataModule(root, **options)
    data.setup()
    return data


def epoch_of(data, epoch):
    """Everything an epoch gives, by row."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    found = {}
    for batch in loader:
        for i, row in enumerate(batch["row"].tolist()):
            found[row] = (batch["image"][i].numpy(), batch["mask"][i].numpy(), tuple(batch["symmetry"][i].tolist()))
    return found


def same(a, b):
    assert a.keys() == b.keys()
    for row in a:
        np.testing.assert_array_equal(a[row][0], b[row][0])
        np.testing.assert_array_equal(a[row][1], b[row][1])
        assert a[row][2] == b[row][2]


def test_batches_are_raw_pixels_and_each_patch_comes_once(root):
    data = module(root, batch_size=4)
    batches = list(data.train_dataloader())
    assert [len(b["image"]) for b in batches] == [4, 4, 1]
    assert (batches[0]["image"].dtype, batches[0]["mask"].dtype) == (torch.uint16, torch.uint8)
    rows = torch.cat([b["row"] for b in batches]).tolist()
    assert sorted(rows) == data.parts["train"].tolist()
    assert rows != sorted(rows)
    for row, image, mask in (
        (r, *pair) for b in batches for r, *pair in zip(b["row"], b["image"], b["mask"], strict=True)
    ):
        np.testing.assert_array_equal(image.numpy(), data.dataset.image(int(row)))
        np.testing.assert_array_equal(mask.numpy(), data.dataset.mask(int(row)))


def test_validation_is_whole_unaltered_and_in_order(root):
    data = module(root, batch_size=2, train_crop=16)
    batches = list(data.val_dataloader())
    assert torch.cat([b["row"] for b in batches]).tolist() == data.parts["val"].tolist()
    assert all(b["image"].shape[-2:] == (32, 32) and not b["symmetry"].any() for b in batches)


def test_crops_are_windows_of_the_patch_and_image_and_mask_agree(root):
    data = module(root, train_crop=12)
    for row, (image, mask, _) in epoch_of(data, 0).items():
        whole, truth = data.dataset.image(row), data.dataset.mask(row)
        places = [
            (r, c) for r in range(21) for c in range(21) if np.array_equal(whole[:, r : r + 12, c : c + 12], image)
        ]
        assert len(places) == 1
        r, c = places[0]
        np.testing.assert_array_equal(mask, truth[r : r + 12, c : c + 12])


def test_draws_depend_on_seed_epoch_and_patch_alone(root):
    first = epoch_of(module(root, train_crop=12, seed=3), 5)
    same(first, epoch_of(module(root, train_crop=12, seed=3, batch_size=5), 5))
    other = epoch_of(module(root, train_crop=12, seed=3), 6)
    assert any(not np.array_equal(first[row][0], other[row][0]) for row in first)
    other = epoch_of(module(root, train_crop=12, seed=4), 5)
    assert any(not np.array_equal(first[row][0], other[row][0]) for row in first)


def test_worker_processes_change_nothing_and_know_the_epoch(root):
    alone, helped = module(root, train_crop=12, num_workers=0), module(root, train_crop=12, num_workers=1)
    loader = helped.train_dataloader()
    assert loader.persistent_workers
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        expected = epoch_of(alone, epoch)
        for batch in loader:
            for i, row in enumerate(batch["row"].tolist()):
                np.testing.assert_array_equal(batch["image"][i].numpy(), expected[row][0])
                assert tuple(batch["symmetry"][i].tolist()) == expected[row][2]
    del loader


def test_all_eight_symmetries_are_drawn_and_none_without_augmentation(root):
    patches = PatchDataset(module(root).dataset, augment=True)
    drawn = {tuple(patches[0, epoch]["symmetry"].tolist()) for epoch in range(60)}
    assert len(drawn) == 8
    assert not PatchDataset(module(root).dataset)[0, 0]["symmetry"].any()


def test_order_is_a_permutation_that_follows_seed_and_epoch():
    sampler = EpochSampler(np.arange(50), shuffle=True, seed=1)
    first = list(sampler)
    assert sorted(row for row, _ in first) == list(range(50))
    assert first == list(sampler)
    sampler.set_epoch(1)
    assert [row for row, _ in sampler] != [row for row, _ in first]
    assert {epoch for _, epoch in sampler} == {1}


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("weights", [None, np.arange(11.0)])
def test_processes_share_a_training_epoch_as_one_process_would_batch_it(world, weights):
    whole = EpochSampler(np.arange(11), shuffle=True, seed=1, weights=weights)
    shares = [
        EpochSampler(np.arange(11), shuffle=True, seed=1, weights=weights, rank=r, world=world) for r in range(world)
    ]
    for sampler in (whole, *shares):
        sampler.set_epoch(2)
    assert {len(list(share)) for share in shares} == {len(shares[0])} == {11 // world}
    together = [key for step in zip(*shares, strict=True) for key in step]
    assert together == list(whole)[: len(together)]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_processes_share_a_validation_without_padding_or_duplicates(world):
    shares = [EpochSampler(np.arange(11), shuffle=False, seed=1, rank=r, world=world) for r in range(world)]
    assert sorted(row for share in shares for row, _ in share) == list(range(11))
    assert [len(share) for share in shares] == [len(list(share)) for share in shares]


def test_what_cannot_be_shared_or_drawn_is_refused():
    with pytest.raises(InputError, match="fewer patches than the 3 processes: 2"):
        EpochSampler([4, 5], shuffle=False, seed=0, world=3)
    for weights in ([1.0], [1.0, -1.0], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]):
        with pytest.raises(ConfigError, match="weights of patches"):
            EpochSampler([4, 5], shuffle=True, seed=0, weights=np.array(weights))
    with pytest.raises(ConfigError, match="shuffled"):
        EpochSampler([4, 5], shuffle=False, seed=0, weights=np.ones(2))


def test_the_loaders_of_a_trainer_of_several_processes_are_shares(root):
    data = module(root)
    data.trainer = SimpleNamespace(global_rank=1, world_size=2)
    assert [row for row, _ in data.val_dataloader().sampler] == data.parts["val"].tolist()[1::2]
    assert len(data.train_dataloader().sampler) == len(data.parts["train"]) // 2


def test_what_is_wrong_is_said(root, tmp_path):
    with pytest.raises(InputError, match="no dataset"):
        module(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no split"):
        module(root, split="country")
    with pytest.raises(ConfigError, match="train_crop"):
        module(root, train_crop=33).train_dataloader()
    with pytest.raises(ConfigError, match="batch_size"):
        CropDataModule(root, batch_size=0)
    make_dataset(tmp_path / "test_only", n=3, size=16, parts={"test": 1.0})
    with pytest.raises(InputError, match=r"part train .* is empty"):
        module(tmp_path / "test_only").train_dataloader()


def test_a_mask_of_another_size_than_its_image_is_refused(tmp_path):
    dataset = make_dataset(tmp_path / "bad", n=3, size=16)
    np.save(tmp_path / "bad" / dataset.manifest["mask"][0].as_py(), np.zeros((16, 15), np.uint8))
    with pytest.raises(InputError, match="differ in size"):
        PatchDataset(dataset)[0, 0]


def test_a_label_that_is_no_class_is_refused_before_a_loss_sees_it(tmp_path):
    dataset = make_dataset(tmp_path / "bad", n=3, size=16)
    np.save(tmp_path / "bad" / dataset.manifest["mask"][0].as_py(), np.full((16, 16), 11, np.uint8))
    with pytest.raises(InputError, match=r"no class: \[11\]"):
        PatchDataset(dataset)[0, 0]
