"""Batches larger than memory: the loss sees all embeddings, the network one chunk at a time."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from pytorch_metric_learning.trainers import MetricLossOnly
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from pml_extras._checks import check_count, check_rows, refuse
from pml_extras.functional.precision import at_least_float32
from pml_extras.pooling import GeneralizedSumPooling
from pml_extras.training._replay import (
    AutocastState,
    ModuleState,
    RandomState,
    devices_of,
    versions,
)


def cached_embeddings(
    embed: Callable[[Any], Tensor],
    chunks: Iterable[Any],
    *,
    modules: nn.Module | Sequence[nn.Module] | None = None,
) -> Tensor:
    r"""Embeddings of a batch whose backward pass computes them again, one chunk at a time.

    .. math::
        \frac{\partial \ell}{\partial \theta}
        = \sum_c \sum_{i \in c} u_i^T \frac{\partial f_\theta(x_i)}{\partial \theta}, \qquad
        u_i = \frac{\partial \ell}{\partial f_\theta(x_i)}

    where :math:`\ell` is any loss of all embeddings, f is ``embed`` and c runs over the chunks. A
    first pass without a graph gives the embeddings. Their loss is computed and differentiated as
    ever, its own parameters included. When its gradient :math:`u` has reached the embeddings,
    ``embed`` runs a second time on each chunk, with a graph that lives until u has been carried
    through it. Memory: the graph of the largest chunk, all of ``chunks``, O(B D), and what the loss
    takes; time: one more forward pass.

    Args:
        embed: a chunk -> (rows, D) floating; usually the network. What depends on more than its
            argument must come from torch's generators (CPU and CUDA), an enclosing autocast, or
            from buffers, extra state and training modes of ``modules``: these are the same in both
            passes. It leaves its argument as it is. Where it cuts the graph (a trunk under
            ``no_grad``), nothing before the cut has a gradient, and nothing says so.
        chunks: what is given to ``embed``, in order: ``images.split(64)``, or batches of any other
            form. Held until the embeddings are released. They may lie in host memory, if ``embed``
            moves them.
        modules: one or several: whatever has parameters or buffers in ``embed``; None where that is
            a module.

    Returns:
        (B, D), a leaf: B are the rows of all chunks together. ``loss.backward()`` adds to the
        ``grad`` of the parameters, as often as it is called; ``torch.autograd.grad`` sees the
        embeddings and nothing behind them, as does ``inputs``: ``loss.backward(inputs=[weight])``
        does nothing, ``inputs=[embeddings]`` all. Without graph where gradients are off, or where
        no parameter of ``modules`` needs one.

    Raises:
        ValueError: ``embed`` is no module and ``modules`` is missing, or holds something else;
            ``chunks`` is one tensor, or empty, or a tensor in it (in tuples, lists and dicts too)
            needs a gradient itself; ``embed`` returns another form; a ``GeneralizedSumPooling`` has
            not started, or a lazy module has no size, which would change between the passes; in the
            backward pass, parameters or such tensors have been replaced or written to since the
            first one, or ``create_graph=True``.

    What is as in one pass over the chunks with one graph: the gradient, with dropout too; the
    state of torch's generators afterwards; buffers, so that batch norm's running statistics are
    updated once a chunk. What is not as with the batch as a whole: batch norm in training mode
    normalises each chunk by itself. Hooks of modules and of gradients fire once a chunk and pass.
    ``DistributedDataParallel`` among ``modules`` averages gradients once, with the last chunk (it
    is ``no_sync`` before); with layers that communicate, such as ``SyncBatchNorm``, every process
    must have as many chunks.

    Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
    RepL4NLP 2021, https://arxiv.org/abs/2101.06983, section 3, for any loss and one or more
    networks. Departure: buffers are set back too, not random states alone.

    >>> network = torch.nn.Linear(3, 2)
    >>> embeddings = cached_embeddings(network, torch.ones(10, 3).split(4))
    >>> embeddings.sum().backward()
    >>> network.weight.grad
    tensor([[10., 10., 10.],
            [10., 10., 10.]])
    """
    modules, chunks = _modules(embed, modules), _checked(chunks)
    parameters = [p for module in modules for p in module.parameters()]
    if not torch.is_grad_enabled() or not any(p.requires_grad for p in parameters):
        return torch.cat([_rows(embed, chunk) for chunk in chunks])
    _check_started(modules)

    inputs = _tensors(chunks)
    devices, given = devices_of(modules, inputs), versions(inputs)
    autocast, module_state = AutocastState(devices), ModuleState(modules)
    parts, random_states = [], []
    with torch.no_grad(), module_state.taken_after_broadcasts(modules):
        for chunk in chunks:
            random_states.append(RandomState(devices))
            parts.append(_rows(embed, chunk))
        embeddings = torch.cat(parts)  # (B, D)
    torch.clear_autocast_cache()  # older torch keeps weights that it has cast without a graph
    learnt = versions(parameters)
    sizes = [len(part) for part in parts]
    del parts

    def second_pass(leaf: Tensor) -> None:
        grad, leaf.grad = leaf.grad, None  # a further backward pass starts anew
        assert grad is not None  # the hook runs where there is one
        if grad.requires_grad:
            raise refuse("create_graph", "False: there are first derivatives alone", "True")
        if versions(inputs) != given:
            expected, way_out = "the inputs of the first pass", "Pass copies."
            raise refuse("chunks", expected, "changed ones", way_out)
        if versions(p for module in modules for p in module.parameters()) != learnt:
            expected, way_out = "the parameters of the first pass", "Step after backward."
            raise refuse("modules", expected, "changed ones", way_out)
        now = ModuleState(modules)  # other batches may have passed since
        cuda = [device for device in devices if device.type == "cuda"]
        last = len(chunks) - 1
        try:
            module_state.restore()
            with torch.random.fork_rng(cuda), torch.enable_grad():
                for at, (chunk, part) in enumerate(zip(chunks, grad.split(sizes), strict=True)):
                    random_states[at].restore()
                    with _unsynchronised(() if at == last else modules):
                        with autocast.entered():
                            rows = _rows(embed, chunk)
                        if rows.requires_grad:  # unless `embed` learns nothing from it
                            rows.backward(part)
        finally:
            now.restore()

    embeddings.requires_grad_().register_post_accumulate_grad_hook(second_pass)
    return embeddings


def _modules(embed: Callable[[Any], Tensor], modules: Any) -> tuple[nn.Module, ...]:
    if modules is None:
        if not isinstance(embed, nn.Module):
            expected = "the modules in `embed`, which is none itself"
            raise refuse("modules", expected, "None", "Pass (trunk,).")
        modules = embed
    found = (modules,) if isinstance(modules, nn.Module) else tuple(modules)
    for module in found:
        if not isinstance(module, nn.Module):
            raise refuse("modules", "modules alone", type(module).__name__)
    return found


def _check_started(modules: Sequence[nn.Module]) -> None:
    """Refuse what the first pass would make another module of."""
    for part in (part for module in modules for part in module.modules()):
        if isinstance(part, GeneralizedSumPooling) and part.training and not part.started:
            expected, way_out = "its pooling to have started", "Call its start_from first."
            raise refuse("modules", expected, "one that still averages", way_out)
        if any(map(is_lazy, (*part.parameters(recurse=False), *part.buffers(recurse=False)))):
            expected, way_out = "sizes that are known", "Call `embed` once without gradients."
            raise refuse("modules", expected, type(part).__name__, way_out)


def _checked(chunks: Iterable[Any]) -> tuple[Any, ...]:
    if torch.is_tensor(chunks):
        came = f"a tensor of shape {tuple(chunks.shape)}"
        raise refuse("chunks", "an iterable of chunks", came, "Split it: x.split(64).")
    chunks = tuple(chunks)
    if not chunks:
        raise refuse("chunks", "at least one chunk", "none")
    if any(x.requires_grad for x in _tensors(chunks)):
        way_out = "Let `embed` compute what comes before, or detach it."
        raise refuse("chunks", "inputs that need no gradient", "one that does", way_out)
    return chunks


def _tensors(chunks: tuple[Any, ...]) -> list[Tensor]:
    """Those in tuples, lists and dicts too."""
    return [x for x in tree_leaves(chunks) if torch.is_tensor(x)]


def _rows(embed: Callable[[Any], Tensor], chunk: Any) -> Tensor:
    rows = embed(chunk)
    check_rows(**{"embed(chunk)": rows})
    return rows


@contextlib.contextmanager
def _unsynchronised(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Keep those of ``modules`` that average gradients over processes from it."""
    with contextlib.ExitStack() as stack:
        for module in modules:
            no_sync: Any = getattr(module, "no_sync", None)
            if no_sync is not None:
                stack.enter_context(no_sync())
        yield


class GradCache(MetricLossOnly):
    """pml's ``MetricLossOnly`` for batches that do not fit into memory in one pass.

    Embeddings are those of :func:`cached_embeddings`, in chunks of ``chunk_size``; all else is
    pml's: miners see the whole batch; ``freeze_these``, gradient clippers, schedulers and hooks
    work as they do there. The batch comes from the data loader as a tensor and stays where it is;
    each chunk moves to ``data_device`` and ``dtype`` by itself.

    Args:
        *args: of ``MetricLossOnly``; ``batch_size`` is that of the loss.
        chunk_size: inputs in one pass of trunk and embedder, >= 1; the last chunk of a batch may
            have fewer. Changes memory and time; and the result, with batch norm in training mode.
        autocast: float16 or bfloat16, in which trunk and embedder multiply on ``data_device``; None
            leaves that alone. Embeddings are float32 at least, whatever they were computed in:
            losses of pml cast their proxies for good where embeddings are half. (A region around
            ``train`` would go on with the weights that it has cast in its first iteration.)
        scaler: scales the loss, and unscales gradients before they are clipped; for float16. It
            unscales what an optimizer steps: a clipper of anything else sees scaled gradients.
        **kwargs: of ``MetricLossOnly``.

    Raises:
        ValueError: an argument is out of range; with a scaler, two optimizers that are to step
            share a parameter; a batch is no tensor.
    """

    def __init__(
        self,
        *args: Any,
        chunk_size: int,
        autocast: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        **kwargs: Any,
    ) -> None:
        check_count(1, chunk_size=chunk_size)
        if autocast not in (None, torch.float16, torch.bfloat16):
            raise refuse("autocast", "None, torch.float16 or torch.bfloat16", repr(autocast))
        if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
            raise refuse("scaler", "None or a torch.amp.GradScaler", type(scaler).__name__)
        self.chunk_size = chunk_size
        self.autocast = autocast
        self.scaler = torch.amp.GradScaler(enabled=False) if scaler is None else scaler
        super().__init__(*args, **kwargs)
        self._check_unscaled_once()

    def compute_embeddings(self, data: Tensor) -> Tensor:
        """Embeddings of all inputs, by chunks."""
        if not torch.is_tensor(data):
            way_out = "Call cached_embeddings in a loop of your own for other forms."
            raise refuse("data", "a tensor of inputs", type(data).__name__, way_out)
        embed = super().compute_embeddings
        region: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self.autocast is not None:
            region = torch.autocast(torch.device(self.data_device).type, dtype=self.autocast)
        with region:
            return cached_embeddings(
                lambda chunk: at_least_float32(embed(chunk)),
                data.split(self.chunk_size),
                modules=tuple(self.models.values()),
            )

    def backward(self) -> None:
        """As pml, of the scaled loss."""
        self.scaler.scale(self.losses["total_loss"]).backward()

    def clip_gradients(self) -> None:
        """As pml, of unscaled gradients."""
        for optimizer in self._stepped():
            self.scaler.unscale_(optimizer)
        super().clip_gradients()

    def step_optimizers(self) -> None:
        """As pml; left out where scaled gradients are not finite."""
        stepped = self._stepped()
        for optimizer in stepped:
            self.scaler.step(optimizer)
        if stepped:
            self.scaler.update()

    def _check_unscaled_once(self) -> None:
        seen: set[Tensor] = set()
        for optimizer in self._unfrozen() if self.scaler.is_enabled() else ():
            held = set(_parameters(optimizer))
            if held & seen:
                expected = "each parameter in one optimizer: a scaler would divide twice"
                raise refuse("optimizers", expected, "two that share one")
            seen |= held

    def _unfrozen(self) -> list[torch.optim.Optimizer]:
        frozen = {f"{name}_optimizer" for name in self.freeze_these}
        return [optimizer for name, optimizer in self.optimizers.items() if name not in frozen]

    def _stepped(self) -> list[torch.optim.Optimizer]:
        """Optimizers of what is not frozen and has a gradient: a scaler refuses others."""
        return [o for o in self._unfrozen() if any(p.grad is not None for p in _parameters(o))]


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    return (p for group in optimizer.param_groups for p in group["params"])
