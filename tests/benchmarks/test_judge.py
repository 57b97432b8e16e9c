"""A verdict follows from paired differences by the rule that the page of claims states."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from benchmarks.recipes.claims import Claim
from benchmarks.records import Record
from benchmarks.reporting.judge import Judgement, holm, judge, p_value
from benchmarks.reporting.selection import Selection, select

MadeUp = Callable[..., Record]
CLAIM = Claim(
    "Ensembles are better",
    "They say so.",
    "their paper",
    better=("ensemble_simplex", "ensemble_heads"),
    worse=("classification", "binomial_deviance"),
    datasets=("omniglot_ensemble",),
)
ONE = replace(CLAIM, better=("ensemble_simplex",), worse=("classification",))
NOISE, CLEAN = "clinc150_tfidf_noise", "clinc150_tfidf"
FALL = replace(
    CLAIM,
    better=("potential_field",),
    worse=("proxy_anchor",),
    datasets=(NOISE,),
    clean=CLEAN,
)
MEMBERS = {"classification": [0.50, 0.60, 0.70], "binomial_deviance": [0.40, 0.50, 0.60]}
ABOVE = [0.70, 0.81, 0.89]  # .20, .21, .19 and .30, .31, .29 above them
BETWEEN = [0.50, 0.62, 0.69]  # 0, .02, -.01 above the first, .10, .12, .09 above the second
BELOW = [0.20, 0.31, 0.39]
shares = st.floats(0, 1, allow_subnormal=False)


def rows(made_up: MadeUp, dataset: str, **recalls: Sequence[float]) -> Selection:
    """Recall@1 by seed of each recipe; MAP@R is half of it."""
    return select(
        dataset,
        [
            made_up(recipe, seed, recall, dataset)
            for recipe, values in recalls.items()
            for seed, recall in enumerate(values)
        ],
    )


def judged(made_up: MadeUp, claim: Claim = CLAIM, **recalls: Sequence[float]) -> Judgement:
    dataset = claim.datasets[0]
    return judge(claim, dataset, rows(made_up, dataset, **recalls) if recalls else None)


@given(st.lists(st.tuples(shares, shares), min_size=2, max_size=9))
def test_p_is_that_of_a_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    one, other = zip(*pairs, strict=True)
    differences = [x - y for x, y in pairs]
    spread = max(differences) - min(differences)
    assume(spread > 1e-3)
    assert p_value(differences) == pytest.approx(ttest_rel(one, other).pvalue, rel=1e-9)


def test_p_without_a_spread_is_0_for_a_difference_and_1_for_none() -> None:
    assert p_value([0.25, 0.25, 0.25]) == 0
    assert p_value([0.0, 0.0]) == 1
    assert p_value([0.3]) == 1
    assert p_value([]) == 1


def test_the_correction_is_that_of_a_calculation_by_hand() -> None:
    # sorted .005, .01, .03, .04 times 4, 3, 2, 1: .02, .03, .06, .04, which the third one lifts
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(shares, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_the_correction_keeps_the_order_and_lies_between_none_and_bonferroni(
    p_values: list[float], random: object
) -> None:
    corrected = holm(p_values)
    for p, more in zip(p_values, corrected, strict=True):
        assert p <= more <= min(1.0, len(p_values) * p)
    shuffled = random.sample(range(len(p_values)), len(p_values))  # type: ignore[attr-defined]
    assert holm([p_values[place] for place in shuffled]) == [corrected[i] for i in shuffled]
    assert [corrected[i] for i in sorted(range(len(p_values)), key=p_values.__getitem__)] == sorted(
        corrected
    )


def test_a_claim_is_confirmed_where_every_difference_is_as_claimed_and_counts(
    made_up: MadeUp,
) -> None:
    found = judged(made_up, **MEMBERS, ensemble_simplex=ABOVE, ensemble_heads=ABOVE)
    assert [(one.better, one.worse) for one in found.comparisons] == [
        ("ensemble_simplex", "classification"),
        ("ensemble_simplex", "binomial_deviance"),
        ("ensemble_heads", "classification"),
        ("ensemble_heads", "binomial_deviance"),
    ]
    assert found.comparisons[1].recall == pytest.approx([0.30, 0.31, 0.29])
    assert found.comparisons[1].precision == pytest.approx([0.150, 0.155, 0.145])
    assert found.verdict == "confirmed"


def test_one_difference_the_other_way_round_contradicts_a_claim(made_up: MadeUp) -> None:
    found = judged(made_up, **MEMBERS, ensemble_simplex=ABOVE, ensemble_heads=BELOW)
    assert [one.side for one in found.comparisons] == [1, 1, -1, -1]
    assert found.verdict == "contradicted"


def test_a_difference_that_does_not_count_decides_nothing(made_up: MadeUp) -> None:
    found = judged(made_up, **MEMBERS, ensemble_simplex=ABOVE, ensemble_heads=BETWEEN)
    assert [one.side for one in found.comparisons] == [1, 1, 0, 1]
    assert found.verdict == "not decided"


def test_every_comparison_of_the_claim_counts_in_the_correction(made_up: MadeUp) -> None:
    # .01, .02, .03: t = .02 / (.01 / sqrt(3)) = 3.4641, p = .0742 with 2 degrees of freedom
    # .010, .015, .020: t = .015 / (.005 / sqrt(3)) = 5.1962, p = .0351, twice that is .0702
    near = {"classification": [0.50, 0.60, 0.70], "ensemble_simplex": [0.51, 0.615, 0.72]}
    alone = judged(made_up, ONE, **near)
    assert alone.comparisons[0].p == pytest.approx(0.0351, abs=1e-4)
    assert alone.verdict == "confirmed"
    two = replace(ONE, better=("ensemble_simplex", "ensemble_heads"))
    among_two = judged(made_up, two, **near, ensemble_heads=[0.51, 0.62, 0.73])
    assert [one.p for one in among_two.comparisons] == pytest.approx([0.0702, 0.0742], abs=1e-4)
    assert among_two.verdict == "not decided"


def test_what_is_not_measured_keeps_a_claim_from_being_confirmed_and_not_from_being_contradicted(
    made_up: MadeUp,
) -> None:
    assert judged(made_up).verdict == "not measured"
    assert judged(made_up, ensemble_simplex=ABOVE).verdict == "not measured"
    first = {"classification": MEMBERS["classification"]}
    assert judged(made_up, **first, ensemble_simplex=ABOVE[:1]).verdict == "not measured"
    above = judged(made_up, **first, ensemble_simplex=ABOVE)
    assert [one.measured for one in above.comparisons] == [True, False, False, False]
    assert above.comparisons[0].p == pytest.approx(4 * p_value([0.20, 0.21, 0.19]))
    assert above.verdict == "not decided"
    assert judged(made_up, **first, ensemble_simplex=BELOW).verdict == "contradicted"


def fall(
    made_up: MadeUp, noisy: Mapping[str, Sequence[float]], clean: Mapping[str, Sequence[float]]
) -> Judgement:
    return judge(FALL, NOISE, rows(made_up, NOISE, **noisy), rows(made_up, CLEAN, **clean))


def test_a_fall_is_the_difference_of_two_differences_on_the_same_seed(made_up: MadeUp) -> None:
    # potential field falls by .10, .12, .11; Proxy Anchor, which stays higher, by .20, .21, .25
    noisy = {"potential_field": [0.50, 0.40, 0.30], "proxy_anchor": [0.70, 0.71, 0.70]}
    clean = {"potential_field": [0.60, 0.52, 0.41], "proxy_anchor": [0.90, 0.92, 0.95]}
    found = fall(made_up, noisy, clean)
    assert found.comparisons[0].recall == pytest.approx([0.10, 0.09, 0.14])
    assert found.comparisons[0].precision == pytest.approx([0.05, 0.045, 0.07])
    assert found.verdict == "confirmed"
    assert fall(made_up, clean, noisy).verdict == "contradicted"


def test_a_fall_needs_both_data_sets_and_the_same_budget(made_up: MadeUp) -> None:
    noisy = {"potential_field": [0.50, 0.40, 0.30], "proxy_anchor": [0.70, 0.71, 0.70]}
    measured = rows(made_up, NOISE, **noisy)
    clean = rows(made_up, CLEAN, potential_field=[0.6, 0.5, 0.4], proxy_anchor=[0.9, 0.9, 0.9])
    assert judge(FALL, NOISE, measured, clean).measured
    other = replace(clean, budget={**clean.budget, "epochs": 99})
    for without in (None, other):
        assert judge(FALL, NOISE, measured, without).verdict == "not measured"
    assert judge(FALL, NOISE, None, clean).verdict == "not measured"
    fewer = rows(made_up, CLEAN, potential_field=[0.6, 0.5], proxy_anchor=[0.9, 0.9, 0.9])
    assert len(judge(FALL, NOISE, measured, fewer).comparisons[0].recall) == 2
