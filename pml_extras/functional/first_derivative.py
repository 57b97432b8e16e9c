"""Backward passes that have no derivative of their own."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def first_derivative_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Of an autograd function, with an error for ``create_graph=True``.

    torch's ``once_differentiable`` raises in the second backward pass alone, and there only if no
    inputs are named: ``torch.autograd.grad`` of a gradient then leaves the term out in silence.
    """

    @wraps(backward)
    def checked(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph: expected False, since this gradient is in closed form and has no "
                "derivative of its own; got True. Leave gradient penalties to other layers."
            )
        return backward(ctx, *grads)

    return checked
