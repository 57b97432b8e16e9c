from benchmarks.reporting import cost_page, field_page
from benchmarks.reporting.tables import MISSING

SHAPE = {"classes": 11318, "proxies_per_class": 2, "dim": 512, "batch": 100, "device": "cpu"}
SPREAD = {
    **SHAPE,
    "field": "spread",
    "share_of_tiles": 0.0,
    "seconds": {"bare": 2.0, "ours": 2.5, "dense": 11.0},
    "ours_over_bare": 1.25,
}
CROWDED = {**SPREAD, "field": "crowded", "share_of_tiles": 0.1, "seconds": {"bare": 2, "ours": 3}}
STEPS = {
    **SHAPE,
    "field": "steps",
    "rate": 0.01,
    "steps": 200,
    "mean_seconds": {"lists": 0.3, "search": 2.4},
    "lists_over_search": 0.125,
    "largest_relative_difference": 2e-7,
    "share_of_steps_that_build": 0.025,
}
MEMORY = {**SHAPE, "field": "memory", "proxies_per_class": 15, "peak_megabytes": 901.4}


def rows_of(table):
    return [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_each_measurement_has_a_row():
    *_, times, steps, memory = field_page.section([SPREAD, CROWDED, STEPS, MEMORY])
    assert rows_of(times) == [
        ["proxies spread, as they are drawn", "2", "2.50 s", "2.00 s", "1.25", "11.00 s"],
        ["close pairs in 10% of the tiles", "2", "3.00 s", "2.00 s", "1.25", MISSING],
    ]
    assert rows_of(steps) == [["0.01", "200", "0.30 s", "2.40 s", "0.12", "2.5%", "2e-07"]]
    assert rows_of(memory) == [["15 proxies a class", "348 MB", "901 MB"]]


def test_the_newest_of_a_kind_is_shown():
    newer = {**SPREAD, "ours_over_bare": 1.5}
    *_, times = field_page.section([SPREAD, newer])
    assert [row[4] for row in rows_of(times)] == ["1.50"]


def test_the_page_has_the_section_where_something_was_measured():
    assert field_page.section([]) == []
    title = "## Potential field at the scale"
    assert title in cost_page.page([], [], [SPREAD])
    assert title not in cost_page.page([], [])
