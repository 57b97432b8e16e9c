import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from pytorch_metric_learning.utils.inference import CustomKNN, FaissKNN

from pml_extras.inference import reciprocal_batches, reciprocal_neighbours, refine_with_neighbours
from pml_extras.nn import MessagePassingNetwork
from tests import strategies
from tests.largest import Largest
from tests.oracles import reciprocal_neighbours as oracle

SMALL = {"batch_size": 4, "k1": 5, "k2": 3}


def clustered(num, size, num_clusters, seed=0, noise=0.3):
    """(num, size) float64 without ties, of any norm, in clusters of unequal sizes."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    centre = torch.randint(num_clusters, (num, 2), generator=generator).amin(dim=1)
    rows = draw(num_clusters, size)[centre] + noise * draw(num, size)
    return rows * draw(num, 1).exp()


def on_a_circle(*degrees):
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


@st.composite
def settings(draw, candidates):
    k1 = draw(st.integers(1, min(candidates - 1, 12)))
    size = draw(st.integers(1, k1 + 1))
    return {"batch_size": size, "k1": k1, "k2": draw(st.integers(1, k1))}


@st.composite
def clustered_rows(draw, min_rows=2):
    num, size = draw(st.integers(min_rows, 30)), draw(st.integers(2, 5))
    clusters, seed = draw(st.integers(1, 6)), draw(st.integers(0, 2**20))
    return clustered(num, size, clusters, seed, draw(st.sampled_from((0.05, 0.3, 1.0))))


@given(st.data())
def test_batches_agree_with_the_definition(data):
    rows = data.draw(clustered_rows())
    setting = data.draw(settings(len(rows)))
    expected = oracle.reciprocal_batches(rows.tolist(), **setting)
    assert reciprocal_batches(rows, **setting).tolist() == expected


@given(st.data())
def test_batches_of_queries_agree_with_the_definition(data):
    rows = data.draw(clustered_rows(min_rows=4))
    num = data.draw(st.integers(1, len(rows) - 2))
    queries, references = rows[:num], rows[num:]
    if data.draw(st.booleans()):  # as far from others as a reference is: that counts as a neighbour
        queries = torch.cat([queries, references[:3]])
    setting = data.draw(settings(len(references)))
    expected = oracle.query_batches(queries.tolist(), references.tolist(), **setting)
    actual = reciprocal_batches(queries, references=references, **setting)
    assert actual.tolist() == expected


@given(st.data())
def test_rows_that_coincide_still_make_batches_of_distinct_rows(data):
    num = data.draw(st.integers(2, 14))
    rows = data.draw(strategies.rows(num, data.draw(st.integers(1, 3))))
    setting = data.draw(settings(num))
    batches = reciprocal_batches(rows, **setting)
    assert batches.shape == (num, setting["batch_size"])
    assert batches.dtype == torch.int64
    assert batches[:, 0].tolist() == list(range(num))
    assert all(len(set(b)) == len(b) and set(b) <= set(range(num)) for b in batches.tolist())
    batches = reciprocal_batches(rows[:3], references=rows, **setting)
    assert batches.shape == (len(rows[:3]), setting["batch_size"] - 1)
    assert all(len(set(b)) == len(b) and set(b) <= set(range(num)) for b in batches.tolist())


def test_expansion_adds_a_neighbour_that_the_row_itself_does_not_list():
    """k1 = k2 = 3, seen from 0 degrees (row 3).

    Nearest are -1, -8 and 9. To 9 the nearest are 10, 15 and 16, so R(0) = {0, -1, -8}. To -8 they
    are -13, -1 and 0, all mutual, so R'(-8) = {-8, -13, -1, 0}, 3 of 4 in R(0), adds -13, which
    comes before 9, a nearer neighbour that is none in return.
    """
    rows = on_a_circle(-13, -8, -1, 0, 9, 10, 15, 16)
    batches = reciprocal_batches(rows, batch_size=4, k1=3, k2=3)
    assert batches[3].tolist() == [3, 2, 1, 0]


def test_expansion_of_which_exactly_two_thirds_are_shared_adds_nothing():
    """k1 = k2 = 2, seen from 0 degrees (row 3).

    Nearest are -4 and 5. To -4 the nearest are -6 and -7, so R(0) = {0, 5}. R'(5) = {5, 0, 11}
    shares 2 of 3: 11 stays out and the nearest other, -4, fills up.
    """
    rows = on_a_circle(-7, -6, -4, 0, 5, 11)
    batches = reciprocal_batches(rows, batch_size=3, k1=2, k2=2)
    assert batches[3].tolist() == [3, 4, 2]


def test_neighbour_that_is_none_in_return_is_not_expanded():
    """k1 = 4, k2 = 3, seen from row 4.

    Row 5 is its nearest but the other way round only the fifth: R(4) = {4, 0, 1, 3}. R'(5) =
    {5, 0, 1, 3} shares 3 of 4 and would let row 5 in, were it asked. So 1 is the first neighbour.
    """
    rows = [[147, 15, 989], [245, 238, 940], [274, 306, 912]]
    rows += [[257, 201, 945], [43, 228, 973], [205, 160, 966]]
    batches = reciprocal_batches(torch.tensor(rows).double(), batch_size=2, k1=4, k2=3)
    assert batches[4].tolist() == [4, 1]


def test_row_that_nobody_lists_is_filled_up_with_its_nearest():
    rows = on_a_circle(90, 3, 0, 1, 2, 4)
    batches = reciprocal_batches(rows, batch_size=4, k1=3, k2=2)
    assert batches[0].tolist() == [0, 5, 1, 4]
    batches = reciprocal_batches(rows[:1], references=rows[1:], batch_size=4, k1=3, k2=2)
    assert batches.tolist() == [[4, 0, 3]]


def test_ties_go_by_index_after_the_row_itself():
    rows = on_a_circle(20, 0, 20, 0, 20)
    batches = reciprocal_batches(rows, batch_size=5, k1=4, k2=1)
    assert batches.tolist() == [
        [0, 2, 4, 1, 3],
        [1, 3, 0, 2, 4],
        [2, 0, 4, 1, 3],
        [3, 1, 0, 2, 4],
        [4, 0, 2, 1, 3],
    ]


def test_only_directions_count():
    rows = clustered(40, 4, 5)
    expected = reciprocal_batches(rows, **SMALL)
    assert torch.equal(reciprocal_batches(rows * torch.arange(1, 41)[:, None], **SMALL), expected)


def test_order_of_the_rows_renames_the_batches():
    rows, order = clustered(60, 6, 7), torch.randperm(60)
    expected = reciprocal_batches(rows, **SMALL)
    actual = reciprocal_batches(rows[order], **SMALL)
    assert torch.equal(order[actual], expected[order])
    queries = clustered(9, 6, 7, seed=1)
    expected = reciprocal_batches(queries, references=rows, **SMALL)
    actual = reciprocal_batches(queries, references=rows[order], **SMALL)
    assert torch.equal(order[actual], expected)


def test_queries_do_not_depend_on_each_other():
    queries, references = clustered(12, 5, 4, seed=1), clustered(50, 5, 4, seed=1)[12:]
    together = reciprocal_batches(queries, references=references, **SMALL)
    alone = [reciprocal_batches(q[None], references=references, **SMALL) for q in queries]
    assert torch.equal(together, torch.cat(alone))


def searchers():
    yield "lp", CustomKNN(LpDistance())
    yield "cosine in parts", CustomKNN(CosineSimilarity(), batch_size=32)  # similarities
    yield "faiss", None  # squared distances


@pytest.mark.parametrize("knn_func", [s for _, s in searchers()], ids=[n for n, _ in searchers()])
@pytest.mark.parametrize("with_references", [False, True])
def test_searchers_of_pml_give_the_same_batches(knn_func, with_references):
    if knn_func is None:
        pytest.importorskip("faiss")
        knn_func = FaissKNN()
    rows = clustered(150, 16, 9).float()
    setting = {**SMALL, "references": rows[20:] if with_references else None}
    rows = rows[:20] if with_references else rows
    expected = reciprocal_batches(rows, **setting)
    assert torch.equal(reciprocal_batches(rows, knn_func=knn_func, **setting), expected)


@pytest.mark.parametrize("row", [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
def test_searchers_that_miss_a_row_among_its_copies_do_no_harm(row):
    def last_first(query, k, reference, ref_includes_query):
        assert not ref_includes_query
        return None, torch.arange(len(reference)).flip(0)[:k].expand(len(query), k)

    rows = torch.tensor([row] * 12)
    for knn_func in (None, last_first):
        batches = reciprocal_batches(rows, knn_func=knn_func, **SMALL)
        assert batches[:, 0].tolist() == list(range(12))
        assert all(len(set(batch)) == 4 for batch in batches.tolist())


def test_rows_too_close_for_a_matrix_product_are_ordered_by_their_differences():
    """Steps of 1e-4 degrees, a squared distance of 3e-12: 1 - x y is off by 6e-8 in float32."""
    degrees = torch.arange(7).double().square() * 1e-4 + 0.01
    rows = on_a_circle(*degrees.tolist())
    exact = reciprocal_batches(rows, batch_size=7, k1=6, k2=3)
    assert torch.equal(reciprocal_batches(rows.float(), batch_size=7, k1=6, k2=3), exact)


def test_order_in_which_a_searcher_lists_neighbours_does_not_matter():
    def farthest_first(*arguments):
        distances, idx = CustomKNN(LpDistance())(*arguments)
        return distances.flip(1), idx.flip(1)

    rows = clustered(150, 16, 9)
    expected = reciprocal_batches(rows, **SMALL)
    assert torch.equal(reciprocal_batches(rows, knn_func=farthest_first, **SMALL), expected)


def test_row_of_zeros_is_at_distance_1_from_all_others():
    """70 degrees apart on the unit circle is a distance of 1.15."""
    rows = torch.cat([on_a_circle(0, 70, 140), torch.zeros(1, 2)])
    batches = reciprocal_batches(rows, batch_size=2, k1=1, k2=1)
    assert batches[:3].tolist() == [[0, 3], [1, 3], [2, 3]]


@pytest.mark.parametrize("elements", [1, 100, 5000])
def test_sizes_of_chunks_change_nothing(monkeypatch, elements):
    rows, queries = clustered(70, 6, 7), clustered(31, 6, 7, seed=1)
    expected = reciprocal_batches(rows, **SMALL)
    of_queries = reciprocal_batches(queries, references=rows, **SMALL)
    monkeypatch.setattr(reciprocal_neighbours, "CHUNK_ELEMENTS", elements)
    assert torch.equal(reciprocal_batches(rows, **SMALL), expected)
    assert torch.equal(reciprocal_batches(queries, references=rows, **SMALL), of_queries)


def test_nothing_grows_with_the_square_of_the_rows(monkeypatch):
    rows, queries = clustered(600, 4, 20), clustered(500, 4, 20, seed=1)
    monkeypatch.setattr(reciprocal_neighbours, "CHUNK_ELEMENTS", 2000)
    for setting in ({"embeddings": rows}, {"embeddings": queries, "references": rows}):
        with Largest() as largest:
            reciprocal_batches(**setting, **SMALL)
        assert largest.elements <= 600 * (SMALL["k1"] + 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_rows_are_compared_in_float32(dtype):
    rows = clustered(80, 8, 6).to(dtype)
    expected = reciprocal_batches(rows.float(), **SMALL)
    assert torch.equal(reciprocal_batches(rows, **SMALL), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(reciprocal_batches(rows.float(), **SMALL), expected)


def test_references_of_another_dtype_meet_in_the_wider_one():
    rows = clustered(60, 8, 6).float()
    queries, references = rows[:10], rows[10:]
    expected = reciprocal_batches(queries, references=references, **SMALL)
    for x, y in ((queries.double(), references), (queries, references.double())):
        assert torch.equal(reciprocal_batches(x, references=y, **SMALL), expected)


def test_no_rows_make_no_batches():
    assert reciprocal_batches(torch.empty(0, 3)).shape == (0, 7)
    assert reciprocal_batches(torch.empty(0, 3), references=torch.ones(2, 3)).shape == (0, 6)
    assert refine_with_neighbours(MeanMixing(3, 5), torch.empty(0, 3)).shape == (0, 5)


def test_batch_of_one_is_the_row_alone():
    rows = clustered(6, 3, 2)
    assert reciprocal_batches(rows, batch_size=1, k1=2, k2=1).tolist() == [[i] for i in range(6)]
    batches = reciprocal_batches(rows, batch_size=1, k1=2, k2=1, references=rows)
    assert batches.shape == (6, 0)


class MeanMixing(torch.nn.Module):
    """Equivariant stand-in: each node mixed with the mean of its graph, with dropout."""

    def __init__(self, size, out):
        super().__init__()
        self.own, self.mean = torch.nn.Linear(size, out), torch.nn.Linear(size, out)
        self.dropout = torch.nn.Dropout(0.5)
        self.seen = []

    def forward(self, x):
        assert not torch.is_grad_enabled()
        self.seen.append(tuple(x.shape))
        return self.dropout(self.own(x) + self.mean(x.mean(dim=-2, keepdim=True)).tanh())


def one_by_one(network, embeddings, references=None, **setting):
    batches = reciprocal_batches(embeddings, references=references, **setting)
    network.eval()
    refined = []
    for row, batch in zip(embeddings, batches, strict=True):
        if references is None:
            graph = torch.stack([embeddings[j] for j in batch])
        else:
            graph = torch.stack([row, *(references[j] for j in batch)])
        with torch.no_grad():
            node = network(graph)[0]
        refined.append(node / node.norm())
    return torch.stack(refined)


@pytest.mark.parametrize("chunk_size", [1, 7, 256])
@pytest.mark.parametrize("with_references", [False, True])
def test_refined_rows_are_those_of_one_graph_at_a_time(chunk_size, with_references):
    rows = clustered(45, 6, 5)
    setting = {**SMALL, "references": rows[15:] if with_references else None}
    rows = rows[:15] if with_references else rows
    network = MeanMixing(6, 3).double()
    expected = one_by_one(network, rows, **setting)
    network.seen.clear()
    actual = refine_with_neighbours(network, rows, chunk_size=chunk_size, **setting)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(actual.norm(dim=1), torch.ones(len(rows), dtype=torch.float64))
    assert max(num for num, *_ in network.seen) == min(chunk_size, len(rows))
    assert sum(num for num, *_ in network.seen) == len(rows)
    assert {shape[1:] for shape in network.seen} == {(4, 6)}


def test_network_sees_the_rows_as_they_are():
    rows = clustered(20, 3, 3)
    graphs = []

    class Recorder(torch.nn.Module):
        def forward(self, x):
            graphs.append(x.clone())
            return x

    refine_with_neighbours(Recorder(), rows, **SMALL)
    assert torch.equal(torch.cat(graphs), rows[reciprocal_batches(rows, **SMALL)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_refined_rows_have_the_dtype_of_the_network(dtype):
    class Cast(torch.nn.Module):
        def forward(self, x):
            return (x + 300).to(dtype)  # of norms whose squares exceed float16

    refined = refine_with_neighbours(Cast(), clustered(20, 8, 3).float(), **SMALL)
    assert refined.dtype == dtype
    norms = refined.double().norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=2e-3, atol=0)


class Failing(MeanMixing):
    def forward(self, x):
        assert not self.training
        assert not self.dropout.training
        raise RuntimeError("out of memory")


@pytest.mark.parametrize("network_class", [MeanMixing, Failing])
def test_modes_and_parameters_are_left_as_they_were(network_class):
    rows = clustered(20, 4, 3).float().requires_grad_()
    network = network_class(4, 2)
    network.own.eval()  # frozen by its owner
    before = [p.detach().clone() for p in network.parameters()]
    modes = [module.training for module in network.modules()]
    if network_class is Failing:
        with pytest.raises(RuntimeError, match="out of memory"):
            refine_with_neighbours(network, rows, **SMALL)
    else:
        assert not refine_with_neighbours(network, rows, **SMALL).requires_grad
    assert [module.training for module in network.modules()] == modes == [True, False, True, True]
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert torch.is_grad_enabled()


def test_rows_may_stay_in_a_file(tmp_path):
    rows = clustered(30, 4, 3).float()
    path = tmp_path / "rows"
    mapped = torch.from_file(str(path), shared=True, size=rows.numel()).view(rows.shape)
    mapped.copy_(rows)
    network = MeanMixing(4, 2)
    expected = refine_with_neighbours(network, rows, **SMALL)
    assert torch.equal(refine_with_neighbours(network, mapped, chunk_size=30, **SMALL), expected)


ROWS = clustered(10, 3, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": ROWS[0]}, r"^embeddings: expected a floating.*got torch.float64 \(3,\)"),
        ({"embeddings": ROWS.long()}, r"^embeddings: .*got torch.int64"),
        ({"embeddings": ROWS / 0}, r"^embeddings: expected finite rows; got NaN"),
        ({"k1": 10}, r"^k1: expected fewer than the 10 rows of `embeddings`; got 10\. Lower k1"),
        ({"references": ROWS[:5]}, r"^k1: expected fewer than the 5 rows of `references`; got 5"),
        ({"k2": 6}, r"^k2: expected at most k1 = 5; got 6\. Lower k2"),
        ({"k2": 0}, r"^k2: expected an integer >= 1; got 0"),
        ({"k1": 2.5}, r"^k1: expected an integer >= 1; got 2\.5"),
        ({"batch_size": 7}, r"^batch_size: expected at most k1 \+ 1 = 6; got 7\. Lower"),
        ({"batch_size": 0}, r"^batch_size: expected an integer >= 1; got 0"),
        ({"references": ROWS[:, :2]}, r"^references: expected 3 columns.*; got 2 columns"),
        ({"references": ROWS[0]}, r"^references: expected a floating tensor"),
        ({"references": ROWS * math.nan}, r"^references: expected finite rows"),
        ({"references": ROWS.to("meta")}, r"^references: expected rows on cpu.*got meta\. Move"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(change, message):
    arguments = {"embeddings": ROWS, **SMALL, **change}
    with pytest.raises(ValueError, match=message):
        reciprocal_batches(**arguments)
    with pytest.raises(ValueError, match=message):
        refine_with_neighbours(torch.nn.Identity(), **arguments)


@pytest.mark.parametrize(
    ("idx", "came"),
    [
        (torch.zeros(10, 5, dtype=torch.int64), r"got torch.int64 \(10, 5\)"),
        (torch.zeros(10, 6), r"got torch.float32 \(10, 6\)"),
        (torch.tensor([[0, 1, 2, 3, 4, -1]] * 10), r"got \[0, 1, 2, 3, 4, -1\] for row 0.*-1: let"),
        (torch.tensor([[0, 1, 2, 3, 4, 10]] * 10), "for row 0"),
        (torch.tensor([list(range(6))] * 9 + [[0, 1, 2, 3, 4, 2]]), "for row 9"),
        ([[0]], "got list"),
    ],
)
def test_searchers_that_find_too_little_are_refused(idx, came):
    with pytest.raises(ValueError, match=r"^knn_func: expected \(10, 6\) distinct.*" + came):
        reciprocal_batches(ROWS, knn_func=lambda *_: (None, idx), **SMALL)


def test_networks_that_return_other_shapes_are_refused():
    def refine(network, **setting):
        refine_with_neighbours(network, ROWS, **SMALL, **setting)

    message = r"^network: expected \(10, 4, Z\) refined nodes.*got shape \(10, 12\)"
    with pytest.raises(ValueError, match=message):
        refine(torch.nn.Flatten())
    with pytest.raises(ValueError, match=r"^network: .*; got function"):
        refine(lambda x: x)
    with pytest.raises(ValueError, match=r"^chunk_size: expected an integer >= 1; got 0"):
        refine(torch.nn.Identity(), chunk_size=0)


@pytest.mark.parametrize("held", [torch.float32, torch.float64])
def test_the_message_passing_network_refines_a_row_as_it_does_in_a_batch_by_itself(held):
    torch.manual_seed(0)
    network = MessagePassingNetwork(8, 2, 2, add_zero_attn=True).to(held)
    rows = torch.randn(20, 8, dtype=torch.float64)
    options = {"batch_size": 4, "k1": 6, "k2": 3}
    refined = refine_with_neighbours(network, rows, chunk_size=7, **options)
    assert network.training
    network.eval()
    for row, batch in zip(refined, reciprocal_batches(rows, **options), strict=True):
        alone = network(rows[batch])[0]
        torch.testing.assert_close(row, alone / alone.norm(), rtol=1e-12, atol=1e-12)
    assert refine_with_neighbours(network, rows[:0], **options).shape == (0, 8)
