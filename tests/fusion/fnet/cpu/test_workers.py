"""Threads that take pieces of work: results in order, and what an error leaves undone."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fusion.fnet.cpu.workers import workers


@pytest.fixture(params=[1, 2])
def run(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    try:
        with workers() as run:
            yield run
    finally:
        torch.set_num_threads(before)


def test_results_stand_in_the_order_of_their_pieces(run):
    assert run(lambda piece: piece**2, range(50)) == [piece**2 for piece in range(50)]


def test_after_an_error_no_more_pieces_are_taken(run):
    taken = []

    def fail(piece):
        taken.append(piece)
        time.sleep(0.01)
        raise ValueError(f"piece {piece}")

    with pytest.raises(ValueError, match=r"piece [01]"):
        run(fail, range(100))
    assert len(taken) <= 2


def test_the_callers_own_operations_run_on_one_core_until_the_end():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(KeyError), workers() as run:
            assert torch.get_num_threads() == 1
            assert run(lambda _: torch.get_num_threads(), range(6)) == [1] * 6
            raise KeyError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_where_a_thread_cannot_start_those_that_did_end_and_the_error_comes_out(monkeypatch):
    def second_fails(pool, function):
        if pool._threads:
            raise RuntimeError("can't start new thread")
        return submit(pool, function)

    submit = ThreadPoolExecutor.submit
    monkeypatch.setattr(ThreadPoolExecutor, "submit", second_fails)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"), workers():
            pass
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
