"""Keep pml's own output from interleaving with the progress bar of the command line."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from unittest import mock

from pytorch_metric_learning.testers import base_tester
from pytorch_metric_learning.trainers import base_trainer
from pytorch_metric_learning.utils import common_functions
from tqdm import tqdm


@contextmanager
def quiet_pml() -> Iterator[None]:
    """No bar an epoch and an evaluation (pml has no switch for them), and no warning that a trunk
    is trained without an embedder on top, which is meant here; errors still show."""
    silent = SimpleNamespace(tqdm=partial(tqdm, disable=True))
    logger, level = common_functions.LOGGER, common_functions.LOGGER.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            mock.patch.object(base_trainer, "tqdm", silent),
            mock.patch.object(base_tester, "tqdm", silent),
        ):
            yield
    finally:
        logger.setLevel(level)
