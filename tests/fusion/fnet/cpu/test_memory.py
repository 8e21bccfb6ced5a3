"""Memory is lent again, to one at a time."""

import numpy as np

from fusion.fnet.cpu.memory import Memory


def test_memory_is_lent_again_when_it_was_given_back_and_let_go_for_another_size():
    memory = Memory()
    memory.fit((1, 6, 4))
    first, second = memory.take(6, 4), memory.take(6, 4)
    assert not np.shares_memory(first, second)
    assert first.ctypes.data % 64 == second.ctypes.data % 64 == 0
    memory.give([first])
    memory.fit((1, 6, 4))
    assert np.shares_memory(memory.take(3, 8), first)
    memory.give([second])
    memory.fit((1, 4, 6))
    assert not np.shares_memory(memory.take(6, 4), second)
