"""Generalized sum pooling: an average over the locations that prototypes call for."""

import contextlib
import math
from typing import Any

import torch
from torch import Tensor, distributed, nn

from pml_extras._checks import check_count, check_flag, check_positive, check_rows, refuse
from pml_extras.functional.farthest_first import farthest_first
from pml_extras.functional.generalized_sum_pooling import (
    check_valid,
    sum_pooling_plan,
    sum_pooling_weights,
)
from pml_extras.functional.masked import mean_of_valid
from pml_extras.functional.precision import at_least_float32, call_in, no_autocast
from pml_extras.functional.unit_ball import unit_ball, unit_ball_cost

GEM_FLOOR, GEM_EXPONENT = 1e-6, 3.0


class GeneralizedSumPooling(nn.Module):
    r"""Learned weighted average of the locations of feature maps or of tokens.

    .. math::
        f_i = W x_i, \qquad c_{ji} = \lVert u(\omega_j) - u(f_i) \rVert_2, \qquad
        \mathrm{pooled} = \sum_i p_i f_i

    with :func:`pml_extras.functional.unit_ball_cost` as costs, and weights p and attributes z by
    :func:`pml_extras.functional.sum_pooling_weights`. It takes the place of global average pooling
    and of the embedding layer after it; or of the pooling alone, ``project=False``, f = x.

    Args:
        in_channels: C, of the features.
        embedding_size: d; with ``project=False`` C, and may be None.
        num_prototypes: m; the released settings have 64, for 10,000 classes and more 128.
        mass: fraction :math:`\mu` in (0, 1] of an image that is pooled; 1 is the plain average.
        sharpness: :math:`\varepsilon` > 0; the released settings have 5, for proxy losses 0.5.
        project: W, without bias, applied before pooling.
        max_pool_branch: add W applied to the maximum over locations.
        gem: :math:`W \mathrm{GeM}_i \max(n p_i x_i, 10^{-6})` in the place of the weighted
            average, the exponent learned from 3; f then enters through p and z alone.
        learn_mass: learn the logit of ``mass``, which is then a 0-dim tensor; not for ``mass=1``.
        learn_sharpness: learn the logarithm of ``sharpness``, likewise.
        startup_size: rows that are collected before prototypes are set, at least
            2 ``num_prototypes``; 0 uses the initial prototypes at once. In batches of 32 the 1,024
            of the paper are 32 steps of plain average: for a trial of a few steps take fewer.
        concatenate_attributes: in training mode give (B, d + m), the attributes behind the
            embedding, for a loss that splits them; in eval mode the embedding alone.

    Start-up: until it has ``started`` the layer is global average pooling, with attributes 0 and
    gradient 0 for prototypes. In training mode each forward stores its averages of f, projected
    onto the unit ball, but for rows that are not finite. The first forward in training mode after
    there are ``startup_size`` (the last batch gives no more than needed) starts:
    :func:`pml_extras.functional.farthest_first` picks the prototypes among all but the first m,
    which are the cover. A forward that is computed again in backward (checkpointing) stores and
    starts nothing. With torch.distributed initialised the rows of all processes are gathered by
    rank, so all must call forward, and their prototypes are equal; under ``nn.DataParallel``, whose
    replicas are thrown away, call :meth:`start_from` first. All of this is in buffers, which are
    read from the device in each forward until it has started, and never after. Weight decay acts on
    the waiting prototypes too. The state dict does not hold ``mass`` and ``sharpness`` unless they
    are learned: build the layer with the same arguments before loading.

    Half inputs, and anything under autocast, are computed in float32 and come out in it; parameters
    keep their dtype. Initialisation: W and prototypes Glorot uniform.

    Source: Gürbüz, Şener, Alatan, "Generalized Sum Pooling for Metric Learning", ICCV 2023,
    https://arxiv.org/abs/2308.09228, with start-up, ``max_pool_branch`` and ``gem`` as in
    https://github.com/yetigurbuz/generalized-sum-pooling. Ours: learning mass and sharpness.

    Raises:
        ValueError: an argument out of its range, or features of another shape.

    >>> layer = GeneralizedSumPooling(8, 4, num_prototypes=3, startup_size=0)
    >>> layer(torch.randn(2, 8, 5, 5)).shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        in_channels: int,
        embedding_size: int | None,
        num_prototypes: int = 64,
        mass: float = 0.3,
        sharpness: float = 5.0,
        project: bool = True,
        max_pool_branch: bool = False,
        gem: bool = False,
        learn_mass: bool = False,
        learn_sharpness: bool = False,
        startup_size: int = 1024,
        concatenate_attributes: bool = False,
    ) -> None:
        super().__init__()
        check_count(1, in_channels=in_channels, num_prototypes=num_prototypes)
        check_count(0, startup_size=startup_size)
        check_flag(
            project=project,
            max_pool_branch=max_pool_branch,
            gem=gem,
            learn_mass=learn_mass,
            learn_sharpness=learn_sharpness,
            concatenate_attributes=concatenate_attributes,
        )
        check_positive(mass=mass, sharpness=sharpness)
        if mass > 1:
            raise refuse("mass", "a fraction in (0, 1]", mass)
        if 0 < startup_size < 2 * num_prototypes:
            expected = f"0, or at least 2 * num_prototypes = {2 * num_prototypes}"
            raise refuse("startup_size", expected, startup_size)
        if learn_mass and mass == 1:
            raise refuse("mass", "a fraction below 1 where it is learned", mass)
        if project:
            check_count(1, embedding_size=embedding_size)
        elif embedding_size not in (None, in_channels):
            expected = f"None or in_channels = {in_channels} without projection"
            raise refuse("embedding_size", expected, embedding_size)
        size = embedding_size if project and embedding_size is not None else in_channels
        self.in_channels = in_channels
        self.embedding_size = size
        self.num_prototypes = num_prototypes
        self.max_pool_branch = max_pool_branch
        self.concatenate_attributes = concatenate_attributes
        self.startup_size = startup_size
        self.projection = nn.Linear(in_channels, size, bias=False) if project else nn.Identity()
        self.prototypes = nn.Parameter(torch.empty(num_prototypes, size))
        for matrix in (*self.projection.parameters(), self.prototypes):
            nn.init.xavier_uniform_(matrix)
        self.exponent = nn.Parameter(torch.tensor(GEM_EXPONENT)) if gem else None
        self._mass, self._sharpness = mass, sharpness
        self.mass_logit = self.log_sharpness = None
        if learn_mass:
            self.mass_logit = nn.Parameter(torch.tensor(math.log(mass / (1 - mass))))
        if learn_sharpness:
            self.log_sharpness = nn.Parameter(torch.tensor(math.log(sharpness)))
        self.startup_rows: Tensor
        self.num_collected: Tensor
        self.has_started: Tensor
        self.register_buffer("startup_rows", torch.zeros(startup_size, size))
        self.register_buffer("num_collected", torch.zeros((), dtype=torch.int64))
        # Above 0 once it has: an average of weights over training that averages buffers keeps that.
        self.register_buffer("has_started", torch.tensor(float(startup_size == 0)))
        self._started = startup_size == 0  # what the buffer said last: it never turns back

    @property
    def mass(self) -> float | Tensor:
        """As given, or a 0-dim tensor with gradient where it is learned: inside (0, 1), the logit
        counts as at most 15."""
        if self.mass_logit is None:
            return self._mass
        return at_least_float32(self.mass_logit).clamp(-15, 15).sigmoid()

    @property
    def sharpness(self) -> float | Tensor:
        """As given, or a 0-dim tensor with gradient where it is learned."""
        if self.log_sharpness is None:
            return self._sharpness
        return at_least_float32(self.log_sharpness).clamp(-80, 80).exp()

    @property
    def started(self) -> bool:
        """False while the layer is global average pooling."""
        if not self._started:
            self._started = bool(self.has_started > 0)
        return self._started

    def extra_repr(self) -> str:
        """What the state dict does not hold, and whether it pools yet."""
        given = {
            "in_channels": self.in_channels,
            "embedding_size": self.embedding_size,
            "num_prototypes": self.num_prototypes,
            "mass": f"{float(self.mass):.6g}",
            "sharpness": f"{float(self.sharpness):.6g}",
            "started": self.started,
        }
        return ", ".join(f"{name}={value}" for name, value in given.items())

    def forward(
        self, x: Tensor, return_attributes: bool = False, valid: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(B, C, H, W) or (B, N, C) to (B, d), and (B, m) attributes if asked for as a pair.

        ``valid`` (B, N) bool, with a True in each row, is False at tokens that only pad: whatever
        finite values they have, they are as good as not there. The other methods take it too.
        """
        with self._precisely(x, valid):
            tokens, features = self._features(x)
            collects = self.training and not self.started and not _in_backward()
            if collects and self._start_if_full():
                collects = False
            if self.started:
                p, z = self._transport(features, valid)
                pooled = self._pool(tokens, features, p, valid)
            else:
                pooled, z = self._average(tokens, features, valid)
                if collects:
                    self._store(mean_of_valid(features.detach(), valid))
        if return_attributes:
            return pooled, z
        if self.concatenate_attributes and self.training:
            return torch.cat([pooled, z], dim=1)
        return pooled

    def weights(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, H, W) or (B, N) weights p of locations, with sum 1; stores nothing."""
        with self._precisely(x, valid):
            _, features = self._features(x)
            if self.started:
                p, _ = self._transport(features, valid)
            else:
                p = _equal_weights(features, valid)
        return p.unflatten(1, x.shape[2:]) if x.ndim == 4 else p

    def attributes(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, m) share z of each prototype in what is pooled; stores nothing."""
        with self._precisely(x, valid):
            _, features = self._features(x)
            if self.started:
                return self._transport(features, valid)[1]
            return features.new_zeros(len(features), self.num_prototypes)

    def plan(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, m, H, W) or (B, m, N) maps :math:`n \\pi_{ji}`: what goes to each prototype.

        In [0, 1], also summed over prototypes; 0 before the layer has started. Stores nothing.
        """
        with self._precisely(x, valid):
            _, features = self._features(x)
            if self.started:
                cost = unit_ball_cost(features, self.prototypes)
                plan = sum_pooling_plan(cost, mass=self.mass, sharpness=self.sharpness, valid=valid)
                plan = plan * _number(features, valid)
            else:
                plan = features.new_zeros(len(x), self.num_prototypes, features.shape[1])
        return plan.unflatten(2, x.shape[2:]) if x.ndim == 4 else plan

    def start_from(self, embeddings: Tensor) -> None:
        """Set prototypes from (N, d) pooled rows at once; N is at least 2 ``num_prototypes``.

        The first m are the initial cover, as in the start-up from batches.
        """
        check_rows(embeddings=embeddings)
        least = 2 * self.num_prototypes
        if len(embeddings) < least or embeddings.shape[1] != self.embedding_size:
            expected = f"at least {least} rows of size {self.embedding_size}"
            raise refuse("embeddings", expected, tuple(embeddings.shape))
        with torch.no_grad():
            rows = unit_ball(at_least_float32(embeddings))
            cover, others = rows.tensor_split([self.num_prototypes])
            picked = farthest_first(others, self.num_prototypes, cover=cover)
            self.prototypes.copy_(others[picked])
            self.has_started.fill_(1)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Rows of a start-up that is over fit a layer of any ``startup_size``."""
        rows, over = (state_dict.get(prefix + key) for key in ("startup_rows", "has_started"))
        if rows is not None and over is not None and over and len(rows) != self.startup_size:
            state_dict[prefix + "startup_rows"] = self.startup_rows
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._started = bool(self.has_started > 0)

    def _precisely(
        self, x: Tensor, valid: Tensor | None
    ) -> contextlib.AbstractContextManager[object]:
        """Refuse what are no features, and a mask of others; no autocast inside."""
        channels = 1 if torch.is_tensor(x) and x.ndim == 4 else -1
        if not torch.is_tensor(x) or x.ndim not in (3, 4) or not x.is_floating_point():
            came = f"{x.dtype} {tuple(x.shape)}" if torch.is_tensor(x) else repr(x)
            raise refuse("x", "a floating tensor (B, C, H, W) or (B, N, C)", came)
        if x.shape[channels] != self.in_channels:
            expected = f"in_channels = {self.in_channels} channels"
            raise refuse("x", expected, f"{x.shape[channels]} of {tuple(x.shape)}")
        if 0 in x.shape[1:]:
            raise refuse("x", "at least one location", tuple(x.shape))
        if valid is not None:
            if x.ndim == 4:
                raise refuse("valid", "None for maps, which have no padding", tuple(valid.shape))
            check_valid(valid, (x.shape[0], x.shape[1]))
        return no_autocast(x)

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, C) tokens and (B, N, d) features f."""
        tokens = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x
        dtype = torch.promote_types(at_least_float32(x).dtype, self.prototypes.dtype)
        tokens = tokens.to(dtype)
        return tokens, call_in(dtype, self.projection, tokens)

    def _transport(self, features: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        cost = unit_ball_cost(features, self.prototypes)
        return sum_pooling_weights(cost, mass=self.mass, sharpness=self.sharpness, valid=valid)

    def _pool(self, tokens: Tensor, features: Tensor, p: Tensor, valid: Tensor | None) -> Tensor:
        """(B, d) of (B, N) weights."""
        if self.exponent is None:
            pooled = torch.bmm(p[:, None], features)[:, 0]
        else:
            exponent = self.exponent.to(tokens.dtype)
            weighted = (_number(tokens, valid) * p[:, :, None] * tokens).clamp(min=GEM_FLOOR)
            largest = weighted.detach().amax(dim=1, keepdim=True)  # its power may not fit
            mean = mean_of_valid((weighted / largest).pow(exponent), valid).pow(1 / exponent)
            pooled = self._project(largest[:, 0] * mean)
        if self.max_pool_branch:
            shown = tokens if valid is None else tokens.masked_fill(~valid[:, :, None], -math.inf)
            pooled = pooled + self._project(shown.amax(dim=1))
        return pooled

    def _project(self, rows: Tensor) -> Tensor:
        projected: Tensor = call_in(rows.dtype, self.projection, rows)
        return projected

    def _average(
        self, tokens: Tensor, features: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Pooled with equal weights, attributes of 0."""
        p = _equal_weights(features, valid)
        pooled = self._pool(tokens, features, p, valid)
        idle = (self.prototypes, self.mass_logit, self.log_sharpness)
        # DistributedDataParallel waits for the gradient of every parameter: these have zeros.
        zero = torch.stack([x.sum().to(p.dtype) for x in idle if x is not None]).sum() * 0
        return pooled + zero, zero.expand(len(features), self.num_prototypes)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _start_if_full(self) -> bool:
        if int(self.num_collected) < self.startup_size:
            return False
        self.start_from(self.startup_rows)
        return True

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _store(self, rows: Tensor) -> None:
        if getattr(self, "_is_replica", False):
            expected = "start_from(...) to be called before nn.DataParallel, or startup_size=0"
            raise refuse("startup_size", expected, self.startup_size, "Or use DDP.")
        filled = int(self.num_collected)
        rows = _from_all_processes(unit_ball(rows))
        rows = rows[rows.isfinite().all(dim=1)][: self.startup_size - filled]
        self.startup_rows[filled : filled + len(rows)] = rows.to(self.startup_rows)
        self.num_collected.add_(len(rows))


def _number(x: Tensor, valid: Tensor | None) -> Tensor | int:
    """Locations of each row of (B, N, K): (B, 1, 1), or the same for all."""
    if valid is None:
        return x.shape[1]
    return valid.sum(dim=1).clamp(min=1)[:, None, None]


def _equal_weights(x: Tensor, valid: Tensor | None) -> Tensor:
    """(B, N) of (B, N, K), with sum 1."""
    if valid is None:
        return torch.full_like(x[:, :, 0], 1 / x.shape[1])
    return valid.to(x.dtype) / valid.sum(dim=1, keepdim=True).clamp(min=1)


def _in_backward() -> bool:
    """Whether this forward is one that checkpointing computes again."""
    return bool(torch._C._current_graph_task_id() != -1)


def _from_all_processes(rows: Tensor) -> Tensor:
    """Rows of all ranks one after the other, so that every rank has the same."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return rows
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, rows.cpu())
    return torch.cat(gathered).to(rows.device)
