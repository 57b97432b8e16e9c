"""How far the distances inside one embedding are from proportional to those inside another."""

import torch
from torch import Tensor

from pml_extras._checks import check_rows, refuse
from pml_extras.functional.pairwise import euclidean_distance
from pml_extras.functional.precision import at_least_float32, no_autocast


def distance_preserving(
    student: Tensor, teacher: Tensor, *, normalize_by_batch: bool = False
) -> Tensor:
    r"""Difference of two matrices of squared distances, each relative to its own sum.

    .. math::
        L = B^2 \left\lVert \frac{D_Z}{\sum D_Z} - \frac{D_X}{\sum D_X} \right\rVert_F, \qquad
        D_Z[a, b] = \lVert z_a - z_b \rVert_2^2, \quad D_X[a, b] = \lVert x_a - x_b \rVert_2^2

    which is the Frobenius norm of the difference after each matrix is divided by its mean, and B
    times its root mean square. A translation, a rotation or a factor of either side changes
    nothing; it is 0 where the two matrices are proportional.

    Args:
        student: (B, Z) floating, rows z; half types are computed in float32.
        teacher: (B, X) floating, rows x of the same samples.
        normalize_by_batch: divide by B, so that values of batches of two sizes are alike.

    Returns:
        0-dim, float32 at least. Points of one side that all coincide have no distances: there the
        side's matrix is 0 and no gradient flows to it. Where L is 0 its gradient is 0, a
        sub-gradient. The gradient grows as 1 / size of the cloud of points, since factors do not
        matter. Memory: (B, B) matrices.

    Raises:
        ValueError: an argument is no (rows, size) tensor, or they have different numbers of rows.

    Source: Zabihzadeh, Alitbi, Mousavirad, "Ensemble of Loss Functions to Improve Generalizability
    of Deep Metric Learning methods", Multimedia Tools and Applications 2023,
    https://arxiv.org/abs/2107.01130, the compression loss of the authors' released code.
    Departure: a side without distances, where the quotient is 0 / 0.

    >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> distance_preserving(4 * square + 5, square) < 1e-6
    tensor(True)
    >>> distance_preserving(square[:, :1], square)
    tensor(2.8284)
    """
    check_rows(student=student, teacher=teacher)
    if len(student) != len(teacher):
        raise refuse("teacher", f"{len(student)} rows, as `student`", f"{len(teacher)} rows")
    if len(student) == 0:
        return student.float().sum() + teacher.float().sum()
    with no_autocast(student):
        difference = _over_mean(student) - _over_mean(teacher)  # (B, B)
        loss: Tensor = torch.linalg.vector_norm(difference)
    return loss / len(student) if normalize_by_batch else loss


def _over_mean(rows: Tensor) -> Tensor:
    """(B, B) squared distances over their mean; 0 where all are 0.

    Neither a translation nor a factor changes it, so both are chosen without gradient: they keep
    squares from underflow and overflow, and a common offset from rounding.
    """
    rows = at_least_float32(rows)
    centre = rows.detach()[:1]
    spread = (rows.detach() - centre).abs().max()
    squared = euclidean_distance((rows - centre) / torch.where(spread > 0, spread, 1.0)).square()
    return squared / torch.where(spread > 0, squared.mean(), 1.0)
