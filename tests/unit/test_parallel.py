"""Work over processes: no more tasks are taken than there is room for."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from cropseg.core.errors import StorageError
from data_prep.parallel import map_ahead, mapping


def test_tasks_are_taken_only_when_there_is_room():
    taken, done = [], []

    def tasks():
        for number in range(20):
            taken.append(number)
            yield number

    with ThreadPoolExecutor(2) as pool:
        for count, _ in enumerate(map_ahead(pool, 3, done.append, tasks()), start=1):
            assert len(taken) <= count + 2
    assert sorted(done) == taken == list(range(20))


def test_an_error_comes_through_and_stops_the_rest():
    taken = []

    def fail(number):
        if number == 1:
            raise ValueError("one")

    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="one"):
        list(map_ahead(pool, 2, fail, (taken.append(n) or n for n in range(100))))
    assert len(taken) < 5


def test_one_worker_is_this_process():
    done = []
    with mapping(1) as mapped:
        list(mapped(done.append, [1, 2]))
    assert done == [1, 2]


def test_a_worker_that_is_killed_is_told_in_one_line():
    with pytest.raises(StorageError, match="fewer workers"), mapping(2) as mapped:
        list(mapped(os._exit, [9, 9, 9]))
