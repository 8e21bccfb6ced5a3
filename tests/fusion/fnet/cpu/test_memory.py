"""Buffers are reused, by one user at a time."""

import numpy as np

from fusion.fnet.cpu.memory import BufferPool


def test_memory_is_lent_again_when_it_was_given_back_and_let_go_for_another_size():
    pool = BufferPool()
    pool.fit((1, 6, 4))
    first, second = pool.take(6, 4), pool.take(6, 4)
    assert not np.shares_memory(first, second)
    assert first.ctypes.data % 64 == second.ctypes.data % 64 == 0
    pool.give([first])
    pool.fit((1, 6, 4))
    assert np.shares_memory(pool.take(3, 8), first)
    pool.give([second])
    pool.fit((1, 4, 6))
    assert not np.shares_memory(pool.take(6, 4), second)
