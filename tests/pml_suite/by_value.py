"""Processes that get copies: torch's ``spawn`` shares tensors that are not on a GPU."""

import pickle

from torch import multiprocessing

_spawn = multiprocessing.spawn


def spawn(function, args=(), **kwargs):
    """As ``torch.multiprocessing.spawn``; with it all ranks would step the same weights."""
    return _spawn(_call, args=(pickle.dumps((function, args)),), **kwargs)


def _call(rank, packed):
    function, args = pickle.loads(packed)
    function(rank, *args)
