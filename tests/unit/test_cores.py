"""A network on a processor answers a batch image by image, on all cores."""

import copy
import multiprocessing
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from factory import make_dataset
from fakes import spec_for
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cropseg.core import cores as shares
from cropseg.core.errors import InputError
from cropseg.evaluate import EvaluationSet, examine
from cropseg.learners import cores
from cropseg.learners.cores import Cores
from cropseg.learners.network import NeuralPredictor, build_net, winners
from cropseg.predictor import SideBySide


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def predictor(net=None, nodata="fill"):
    torch.manual_seed(3)
    net = net or build_net({"_target_": "cropseg.models.unet4gn.UNet4LevelsGN", "base": 4, "groups": 2}, 10, 11)
    return NeuralPredictor(net, spec_for(model={"nodata": nodata}), np.eye(11, dtype=np.int64), 0)


def images(n, size=16, empty=True):
    found = np.random.default_rng(0).integers(1, 9000, (n, 10, size, size), dtype=np.uint16)
    if empty:
        found[::2, 3, : size // 3] = 0
    return found


@pytest.mark.parametrize("nodata", ["fill", "zero"])
def test_an_answer_depends_neither_on_the_batch_nor_on_the_cores(threads, monkeypatch, nodata):
    monkeypatch.setattr(cores, "AT_ONCE", 16 * 16)
    asked, batch = predictor(nodata=nodata), images(7)
    torch.set_num_threads(1)
    alone = [asked.classify(batch[i : i + 1]) for i in range(7)]
    torch.set_num_threads(threads)
    labels, confidence = asked.classify(batch)
    np.testing.assert_array_equal(labels, np.concatenate([one for one, _ in alone]))
    np.testing.assert_array_equal(confidence, np.concatenate([one for _, one in alone]))
    np.testing.assert_array_equal(asked.labels(batch), labels)
    probabilities = asked.probabilities(batch)
    np.testing.assert_allclose(probabilities.max(axis=1), confidence, atol=1e-6)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), labels)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("n", "size", "parts"), [(1, 256, 1), (3, 256, 3), (3, 400, 3), (8, 64, 1), (40, 64, 3)])
def test_so_many_pixels_go_through_together(n, size, parts):
    seen = []
    Cores(nn.Identity()).spread(lambda net, part: seen.append(len(part)), images(n, size, empty=False))
    assert len(seen) == parts
    assert sum(seen) == n


def test_small_images_go_through_together_and_are_told_alike(threads):
    asked, batch = predictor(), images(40, size=64)
    labels, confidence = asked.classify(batch)
    alone = [asked.classify(batch[i : i + 1]) for i in range(40)]
    np.testing.assert_allclose(confidence, np.concatenate([one for _, one in alone]), atol=1e-5)
    assert (labels == np.concatenate([one for one, _ in alone])).mean() > 0.9999


def test_an_empty_batch_has_an_empty_answer():
    assert predictor().labels(images(1)[:0]).shape == (0, 16, 16)
    assert predictor().classify(images(1)[:0])[1].shape == (0, 16, 16)


class Forgetful(nn.Module):
    """A network that keeps what it has seen in itself, as some do, and waits for another thread in between."""

    def __init__(self, meeting):
        super().__init__()
        self.conv, self.meeting = nn.Conv2d(10, 11, 1), meeting

    def __deepcopy__(self, memo):
        twin = Forgetful(self.meeting)
        twin.conv = copy.deepcopy(self.conv, memo)
        return twin

    def forward(self, x):
        self.seen = x
        self.meeting.wait(20)
        return self.conv(self.seen)


def test_threads_do_not_share_what_a_network_keeps_in_itself(monkeypatch):
    monkeypatch.setattr(cores, "AT_ONCE", 16 * 16)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        net = Forgetful(threading.Barrier(2))
        asked, batch = predictor(net), images(4, empty=False)
        labels = asked.labels(batch)
        twins = [asked._cores._twins.get() for _ in range(2)]
        assert len({id(one) for one in (net, *twins)}) == 3
        assert all(one.conv.weight is net.conv.weight for one in twins)  # weights stand in memory once
        net.meeting = threading.Barrier(1)
        torch.set_num_threads(1)
        expected = NeuralPredictor(net, asked.spec, asked.confusion, 0).labels(batch)
        np.testing.assert_array_equal(labels, expected)
    finally:
        torch.set_num_threads(before)


class Single(nn.Conv2d):
    def __init__(self, error=None):
        super().__init__(10, 11, 1)
        self.error = error

    def __deepcopy__(self, memo):
        if self.error:
            raise self.error
        twin = Single()  # with weights of its own, as TorchScript's copies have
        twin.load_state_dict(self.state_dict())
        return twin


def test_a_network_that_cannot_be_copied_answers_all_the_same(threads, monkeypatch):
    monkeypatch.setattr(cores, "AT_ONCE", 16 * 16)
    for net in (Single(), Single(RuntimeError("only one of me")), Single(pickle.PicklingError("not at all"))):
        asked, batch = predictor(net), images(5)
        expected = np.concatenate([asked.labels(batch[i : i + 1]) for i in range(5)])
        np.testing.assert_array_equal(asked.labels(batch), expected)
        assert asked.side_by_side(9) is None


class Counting(nn.Conv2d):
    """A network that keeps what it has seen in a buffer."""

    def __init__(self):
        super().__init__(10, 11, 1)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen.copy_(x.mean())
        return super().forward(x) * self.seen


def test_what_a_network_keeps_in_a_buffer_is_each_threads_own(threads, monkeypatch):
    monkeypatch.setattr(cores, "AT_ONCE", 16 * 16)
    asked, batch = predictor(Counting()), images(6)
    expected = np.concatenate([asked.labels(batch[i : i + 1]) for i in range(6)])
    for _ in range(10):
        np.testing.assert_array_equal(asked.labels(batch), expected)


def _negate(net):
    net.head.weight.data.mul_(-1)


def _replace_the_head(net):
    torch.manual_seed(9)
    net.head = nn.Conv2d(net.head.in_channels, 11, 1)


def _load(net):
    net.load_state_dict({name: one * 0.5 for name, one in net.state_dict().items()}, assign=True)


@pytest.mark.parametrize("change", [_negate, _replace_the_head, _load])
def test_a_network_that_was_changed_is_the_one_that_answers(threads, monkeypatch, change):
    monkeypatch.setattr(cores, "AT_ONCE", 16 * 16)
    asked, fresh, batch = predictor(), predictor(), images(6)
    asked.labels(batch)
    for one in (asked, fresh):
        change(one.net)
    found = asked.probabilities(batch)
    np.testing.assert_array_equal(found, fresh.probabilities(batch))
    asked.net = predictor().net
    assert not np.array_equal(asked.probabilities(batch), found)
    np.testing.assert_array_equal(asked.to("cpu").probabilities(batch), predictor().probabilities(batch))


def test_buffers_that_were_changed_are_those_that_answer(threads, monkeypatch):
    monkeypatch.setattr(cores, "AT_ONCE", 16 * 16)
    net = nn.Sequential(nn.BatchNorm2d(10), nn.Conv2d(10, 11, 1))
    asked, batch = predictor(net), images(6)
    before = asked.probabilities(batch)
    net[0].running_mean.fill_(0.3)
    found = asked.probabilities(batch)
    assert not np.array_equal(found, before)
    np.testing.assert_array_equal(found, predictor(copy.deepcopy(net)).probabilities(batch))


def test_a_predictor_that_has_answered_can_be_copied_and_sent(threads, monkeypatch):
    monkeypatch.setattr(cores, "AT_ONCE", 16 * 16)
    asked, batch = predictor(), images(6)
    labels = asked.labels(batch)
    for other in (copy.deepcopy(asked), pickle.loads(pickle.dumps(asked))):
        np.testing.assert_array_equal(other.labels(batch), labels)


@given(st.integers(1, 200), st.integers(1, 128))
def test_cores_are_divided_evenly_among_threads(parts, all_cores):
    threads = shares.number(parts, all_cores)
    assert 1 <= threads <= min(parts, all_cores)
    each = all_cores // threads
    assert threads * each <= all_cores < threads * (each + 1)
    if parts >= all_cores:
        assert threads == all_cores


@pytest.mark.parametrize(("number", "cores_of_all"), [(2, 2), (2, 5), (3, 3)])
def test_each_thread_knows_its_share_and_they_stay(number, cores_of_all):
    limits = []
    pool = shares.threads(number, cores_of_all, limits.append)
    assert sorted(limits) == sorted([*[cores_of_all // number] * number, cores_of_all])
    assert set(pool.map(lambda _: shares.share(), range(20))) == {cores_of_all // number}
    assert shares.share() is None


def test_threads_that_cannot_be_started_leave_nothing_waiting(monkeypatch):
    submit, given = ThreadPoolExecutor.submit, []

    def refuse(pool, *args):
        if given:
            raise RuntimeError("can't start new thread")
        given.append(submit(pool, *args))
        return given[0]

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    limits = []
    with pytest.raises(RuntimeError, match="new thread"):
        shares.threads(3, 7, limits.append)
    assert limits[-1] == 7  # what new threads begin with is as it was
    with pytest.raises(threading.BrokenBarrierError):
        given[0].result(20)


def test_several_threads_may_ask_first_and_at_once(threads, monkeypatch):
    monkeypatch.setattr(cores, "AT_ONCE", 16 * 16)
    asked, batch = predictor(), images(6)
    expected = predictor().labels(batch)
    with ThreadPoolExecutor(6) as pool:
        for labels in pool.map(lambda _: asked.labels(batch), range(24)):
            np.testing.assert_array_equal(labels, expected)


def test_what_a_network_fails_at_is_told(threads, monkeypatch):
    monkeypatch.setattr(cores, "AT_ONCE", 16 * 16)
    with pytest.raises(RuntimeError, match="channels"):
        predictor(nn.Conv2d(3, 11, 1)).labels(images(4))
    with pytest.raises(InputError, match="images must be"):
        predictor().labels(images(4)[0])


TEST_ONLY = {"train": 0.0, "val": 0.0, "test": 1.0}


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_a_set_is_scored_the_same_on_any_number_of_cores(tmp_path, threads, batch_size, monkeypatch):
    monkeypatch.setattr(cores, "AT_ONCE", 2 * 16 * 16)
    data = make_dataset(tmp_path, n=9, size=16, nodata=True, ignored=True, parts=TEST_ONLY)
    chosen = EvaluationSet("x", str(data.root), "location")
    found, details = examine(predictor(), chosen, batch_size)
    torch.set_num_threads(1)
    alone, beside = examine(predictor(), chosen, 1)
    np.testing.assert_array_equal(found.confusion, alone.confusion)
    assert details.patches["confusion"].equals(beside.patches["confusion"])
    np.testing.assert_array_equal(details.reliability["all"].pixels, beside.reliability["all"].pixels)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 9])
def test_no_more_than_a_batch_is_in_the_network_at_a_time(tmp_path, threads, batch_size):
    data, now, most = make_dataset(tmp_path, n=24, size=16, parts=TEST_ONLY), [], []

    class Watched(nn.Conv2d):
        def forward(self, x):
            now.extend(x)
            most.append(len(now))
            time.sleep(0.005)
            del now[: len(x)]
            return super().forward(x)

    examine(predictor(Watched(10, 11, 1)), EvaluationSet("x", str(data.root), "location"), batch_size)
    assert max(most) <= batch_size


def test_a_broken_patch_is_named_from_any_core_and_work_goes_on(tmp_path, threads):
    data = make_dataset(tmp_path, n=9, size=16, parts=TEST_ONLY)
    chosen = EvaluationSet("x", str(data.root), "location")
    asked, path = predictor(), tmp_path / data.manifest["mask"][4].as_py()
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(InputError, match=path.name):
        examine(asked, chosen, 2)
    path.write_bytes(whole)
    assert examine(asked, chosen, 2)[0].patches == 9


@given(st.integers(1, 300), st.integers(1, 1100), st.integers(2, 64))
def test_no_thread_takes_more_than_its_share_or_than_goes_through_at_once(images, size, threads):
    threads = shares.number(images, threads)
    taken = SideBySide(None, threads, cores.AT_ONCE).at_a_time(images, size)
    assert 1 <= taken * threads <= images
    assert taken == 1 or taken * size**2 <= cores.AT_ONCE


def _ask(answers):
    torch.set_num_threads(2)
    answers.put(predictor().labels(images(4)).shape)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_makes_threads_of_its_own(monkeypatch):
    monkeypatch.setattr(cores, "AT_ONCE", 16 * 16)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        predictor().labels(images(4))
    finally:
        torch.set_num_threads(before)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=_ask, args=(answers,))
    process.start()
    assert answers.get(timeout=60) == (4, 16, 16)
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.parametrize("classes", [2, 11, 255])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_winners_are_those_of_argmax_and_of_equal_ones_the_first(classes, dtype):
    random = np.random.default_rng(classes)
    logits = torch.from_numpy(random.integers(-4, 4, (2, classes, 9, 7)).astype(np.float32)).to(dtype)  # many are equal
    highest, best = winners(logits)
    np.testing.assert_array_equal(best.numpy(), logits.float().numpy().argmax(axis=1))
    assert torch.equal(highest, logits.max(dim=1).values)
    assert best.dtype == torch.uint8


def test_the_winner_among_numbers_that_are_none_is_a_class():
    logits = torch.full((1, 3, 2, 2), torch.nan)
    assert (winners(logits)[1] < 3).all()
