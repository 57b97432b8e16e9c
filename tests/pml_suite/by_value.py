"""Processes that get copies, and soon: torch's ``spawn`` shares tensors that are not on a GPU."""

import multiprocessing
import pickle

from torch.multiprocessing import start_processes

LOADED = ["tests.pml_suite.replacements", "pml_extras.wrappers", "pytorch_metric_learning.losses"]


def spawn(function, args=(), nprocs=1, join=True):
    """As ``torch.multiprocessing.spawn``; with that all ranks would step the same weights.

    A server of processes imports the packages once; nothing of a test has run in it.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(LOADED)
    packed = pickle.dumps((function, args))
    start_processes(_call, (packed,), nprocs, join, start_method="forkserver")


def _call(rank, packed):
    function, args = pickle.loads(packed)
    function(rank, *args)
