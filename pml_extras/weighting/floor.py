"""A prior as start weights above a floor."""

from collections.abc import Sequence

from pml_extras._checks import check_non_negative, check_positive, refuse


def floor_of(floor: float | None, num_losses: int) -> float:
    """The smallest weight of one loss; None is the paper's 1 / (4m).

    Raises:
        ValueError: so many losses cannot all weigh more and sum to 1.
    """
    if floor is None:
        return 1 / (4 * num_losses)
    check_non_negative(floor=floor)
    if floor * num_losses >= 1:
        expected = f"less than 1/m = {1 / num_losses:.4g} with m = {num_losses} losses"
        raise refuse("floor", expected, repr(floor))
    return floor


def excess_of(prior: Sequence[float], floor: float) -> list[float]:
    """What each share p_j / sum p has above the floor.

    Raises:
        ValueError: a share has nothing: below the floor no parameter exists, and on it no gradient.
    """
    for value in prior:
        check_positive(prior=value)
    shares = [float(value) / sum(prior) for value in prior]
    if min(shares) <= floor:
        raise refuse(
            "prior",
            f"shares of the sum above the floor {floor:.4g}",
            [round(share, 4) for share in shares],
            "Raise the smallest entries or lower `floor`.",
        )
    return [share - floor for share in shares]
