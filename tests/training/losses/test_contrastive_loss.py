"""The tiled loss is the library's, value and gradients, leaves out false negatives, and needs little memory."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.losses import (
    GISTEmbedLoss,
    MultipleNegativesRankingLoss,
    gist_embed,
    multiple_negatives_ranking,
)
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.functional import normalize
from transformers import AutoTokenizer

from mnrl_job.config.setting_types import Hardness
from mnrl_job.data.tables import NO_GROUP
from mnrl_job.training.distributed import all_gather_with_grad
from mnrl_job.training.losses import contrastive_loss as module
from mnrl_job.training.losses.contrastive_loss import contrastive_loss
from tests.program import run_python

ROWS, DIMENSION, SCALE = 8, 5, 20.0
FOUR = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
LIBRARY = {
    "mnrl": {},
    "symmetric": {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
    "gte": {"directions": FOUR, "partition_mode": "joint"},
}
DIRECTIONS = {name: options.get("directions", ("query_to_doc",)) for name, options in LIBRARY.items()}
DIRECTIONS["guided"] = ("query_to_doc", "query_to_query", "pos_to_pos")
OBJECTIVES = pytest.mark.parametrize("objective", LIBRARY)
MODES = ("in_batch_negatives", "hard_negatives", "all_negatives")


def embeddings(columns, rows=ROWS, dtype=torch.float64, seed=7):
    """Anchors and the documents of each column, of unit length, shape (1 + columns, rows, dimension)."""
    made = torch.randn(1 + columns, rows, DIMENSION, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normalize(made, dim=2).to(dtype).requires_grad_()


def labels_of(groups):
    """The labels of all positives, then of all first negatives, and so on; of each row's groups the anchor's first."""
    columns = range(1, len(groups[0]))
    return torch.tensor([[row, one[0], one[column]] for column in columns for row, one in enumerate(groups)])


def apart(columns, rows=ROWS):
    """Every text is a group of its own."""
    return labels_of(torch.arange(rows * (1 + columns)).reshape(rows, -1).tolist())


def sides_of(made):
    """Queries, and all documents column by column."""
    return made[0], made[1:].flatten(0, 1)


def guides_of(columns, rows=ROWS):
    """What a guide finds, which has nothing to do with what the model does: it takes many documents out."""
    return embeddings(columns, rows, seed=8).detach()


def ours(made, labels, objective, own=slice(None), scale=SCALE, hardness=None):
    guides = sides_of(guides_of(len(made) - 1, made.shape[1]).to(made.dtype)) if objective == "guided" else None
    return contrastive_loss(*sides_of(made), labels, own, scale, objective, hardness, guides)


def gradient(loss, made):
    return torch.autograd.grad(loss, made, retain_graph=True)[0]


def set_tiles(monkeypatch, rows, made):
    monkeypatch.setattr(module, "TILE_BYTES", rows * made[1:].shape[:2].numel() * made.element_size())


@OBJECTIVES
@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("rows_at_once", [0, 1, 3, 8])
def test_value_and_gradients_equal_the_librarys(monkeypatch, objective, columns, rows_at_once):
    made = embeddings(columns)
    set_tiles(monkeypatch, rows_at_once, made)
    # The library divides by the length, which takes the radial part out of the gradient.
    value, masked = ours(normalize(made, dim=2), apart(columns), objective)
    library = MultipleNegativesRankingLoss(None, scale=SCALE, **LIBRARY[objective])
    theirs = library.compute_loss_from_embeddings(list(made), None)
    assert (masked.item(), masked.dtype) == (0, torch.int64)
    torch.testing.assert_close(value, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(value, made), gradient(theirs, made), rtol=1e-10, atol=1e-12)


@OBJECTIVES
def test_each_ranks_share_equals_the_librarys(monkeypatch, objective):
    made, labels, rows = embeddings(2), apart(2), ROWS // 2
    whole, _ = ours(normalize(made, dim=2), labels, objective)
    library = MultipleNegativesRankingLoss(None, scale=SCALE, gather_across_devices=True, **LIBRARY[objective])
    shares = []
    for rank in range(2):
        everywhere = iter(made)
        monkeypatch.setattr(multiple_negatives_ranking, "all_gather_with_grad", lambda _, them=everywhere: next(them))
        monkeypatch.setattr(multiple_negatives_ranking, "get_rank", lambda rank=rank: rank)
        own = slice(rank * rows, (rank + 1) * rows)
        theirs = library.compute_loss_from_embeddings(list(made[:, own]), None)
        value, _ = ours(normalize(made, dim=2), labels, objective, own)
        torch.testing.assert_close(value, theirs, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient(value, made), gradient(theirs, made), rtol=1e-10, atol=1e-12)
        shares.append(value)
    mean = sum(shares) / 2
    torch.testing.assert_close(mean, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(mean, made), gradient(whole, made), rtol=1e-10, atol=1e-12)


@OBJECTIVES
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("rows_at_once", [3, 8])
def test_with_hardness_too(monkeypatch, objective, mode, columns, rows_at_once):
    made, rows = embeddings(columns), ROWS // 2
    set_tiles(monkeypatch, rows_at_once, made)
    options = LIBRARY[objective] | {"hardness_mode": mode, "hardness_strength": 9.0}
    library = MultipleNegativesRankingLoss(None, scale=SCALE, gather_across_devices=True, **options)
    everywhere = iter(made)
    monkeypatch.setattr(multiple_negatives_ranking, "all_gather_with_grad", lambda _: next(everywhere))
    monkeypatch.setattr(multiple_negatives_ranking, "get_rank", lambda: 1)
    own = slice(rows, 2 * rows)
    theirs = library.compute_loss_from_embeddings(list(made[:, own]), None)
    unit = normalize(made, dim=2)
    value, _ = ours(unit, apart(columns), objective, own, hardness=Hardness(mode, 9.0))
    torch.testing.assert_close(value, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(value, made), gradient(theirs, made), rtol=1e-10, atol=1e-12)
    plain, _ = ours(unit, apart(columns), objective, own)
    assert (value.item() == plain.item()) == (mode == "hard_negatives" and columns == 1)


def counts(direction, rows, one, row, column):
    """Whether a text of a row counts in the softmax of another row, said in words rather than in tensors.

    Args:
        direction: what is compared with what, as the library calls it.
        rows: groups of the texts of each row, the anchor first.
        one: row whose softmax it is.
        row: row of the other text.
        column: 0 for its anchor, 1 for its positive, 2 for its negative.
    """
    (anchor, positive, _), text = rows[one], rows[row][column]
    same_anchor = rows[row][0] == anchor
    if direction == "query_to_query":
        return not ({anchor, positive} & {text} or rows[row][1] in (anchor, positive))
    if direction == "doc_to_query":
        return counts("query_to_doc", rows, row, one, 1)
    if direction in ("doc_to_doc", "pos_to_pos") and one == row:
        return False
    if column == 1:
        return one == row or not (text in (anchor, positive) or same_anchor)
    return text != NO_GROUP and (text not in (anchor, positive) or same_anchor)


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("rows_at_once", [1, 3, 8])
def test_with_a_guide_value_and_gradients_equal_those_of_gistembed(monkeypatch, tiny_model, columns, rows_at_once):
    made, guides = embeddings(columns), guides_of(columns)
    set_tiles(monkeypatch, rows_at_once, made)
    found = iter([list(made), list(guides)])
    monkeypatch.setattr(gist_embed, "embed_columns", lambda *_: next(found))
    reader = SimpleNamespace(tokenizer=AutoTokenizer.from_pretrained(tiny_model), max_seq_length=32)
    theirs = GISTEmbedLoss(reader, reader, temperature=1 / SCALE)([{}] * len(made), None)
    value, masked = ours(normalize(made, dim=2), apart(columns), "guided")
    assert 0 < masked.item() < columns * ROWS**2 - ROWS
    torch.testing.assert_close(value, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(value, made), gradient(theirs, made), rtol=1e-10, atol=1e-12)


def weighed(mode, one, row, column):
    """Whether hardness counts for a document of a row, in the softmax of another row."""
    hard = one == row and column > 1
    return {"in_batch_negatives": one != row, "hard_negatives": hard, "all_negatives": one != row or hard}[mode]


def dense(made, rows, objective, own, hardness):
    """The loss with all scores at once, and how many of them were left out from the queries to the documents."""
    sides = {"query": (made[0], [0]), "doc": (made[1:].flatten(0, 1), [1, 2]), "pos": (made[1], [1])}
    guides = {name: guides_of(2, len(rows))[numbers].flatten(0, 1) for name, (_, numbers) in sides.items()}
    scores, left_out = [], 0
    for direction in DIRECTIONS[objective]:
        left, right = direction.split("_to_")
        them, columns = sides[right]
        counted = torch.tensor(
            [
                [counts(direction, rows, one, row, column) for column in columns for row in range(len(rows))]
                for one in range(len(rows))
            ]
        )[own]
        if objective == "guided":
            limits = (guides["query"] * guides["pos"]).sum(dim=1)[own]
            near = guides[left][: len(rows)][own] @ guides[right].T > limits[:, None]
            positive = torch.eye(len(rows), len(them), dtype=torch.bool)[own] & (direction == "query_to_doc")
            counted = counted & (~near | positive)
        cosines = sides[left][0][: len(rows)][own] @ them.T
        found = SCALE * cosines
        if hardness and direction == "query_to_doc":
            chosen = [
                [weighed(hardness.mode, one, row, column) for column in columns for row in range(len(rows))]
                for one in range(len(rows))
            ]
            found = found + hardness.strength * cosines.detach() * torch.tensor(chosen)[own]
        scores.append(found.masked_fill(~counted, -torch.inf))
        left_out += (~counted).sum().item() if direction == "query_to_doc" else 0
    positive = SCALE * (made[0] * made[1]).sum(dim=1)[own]
    softmaxes = scores if objective == "symmetric" else [torch.cat(scores, dim=1)]
    partition = torch.stack([softmax.logsumexp(dim=1) for softmax in softmaxes]).mean(dim=0)
    return (partition - positive).mean(), left_out


GROUPS = st.integers(0, 6)
BATCHES = st.lists(st.tuples(GROUPS, GROUPS, st.one_of(GROUPS, st.just(NO_GROUP))), min_size=1, max_size=8)
HARDNESS = st.none() | st.builds(Hardness, st.sampled_from(MODES), st.just(9.0))


@pytest.mark.parametrize("objective", DIRECTIONS)
@given(
    rows=BATCHES,
    ends=st.tuples(st.integers(0, 7), st.integers(1, 8)),
    rows_at_once=st.integers(1, 8),
    hardness=HARDNESS,
)
def test_false_negatives_are_left_out_in_every_direction(objective, rows, ends, rows_at_once, hardness):
    made, start = embeddings(2, len(rows)), min(ends[0], len(rows) - 1)
    own = slice(start, max(ends[1], start + 1))
    expected, left_out = dense(made, rows, objective, own, hardness)
    with pytest.MonkeyPatch.context() as patch:
        set_tiles(patch, rows_at_once, made)
        value, masked = ours(made, labels_of(rows), objective, own, hardness=hardness)
    assert masked.item() == left_out
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(value, made), gradient(expected, made), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("objective", DIRECTIONS)
@given(rows=BATCHES, rows_at_once=st.integers(1, 8), hardness=HARDNESS, seed=st.integers(0, 9))
def test_negatives_that_are_not_there_are_as_good_as_masked_ones(objective, rows, rows_at_once, hardness, seed):
    """Rows may differ in how many they have, and negatives may stand in any order."""
    made, labels, count = embeddings(2, len(rows)), labels_of(rows), len(rows)
    there = torch.nonzero(labels[count:, 2] != NO_GROUP)[:, 0]
    there = count + there[torch.randperm(len(there), generator=torch.Generator().manual_seed(seed))]
    places = torch.cat([torch.arange(count), there])
    queries, documents = sides_of(made)
    guides = [*sides_of(guides_of(2, count))] if objective == "guided" else None
    expected, _ = contrastive_loss(queries, documents, labels, slice(None), SCALE, objective, hardness, guides)
    guides = (guides[0], guides[1][places]) if guides else None
    with pytest.MonkeyPatch.context() as patch:
        set_tiles(patch, rows_at_once, made)
        value, masked = contrastive_loss(
            queries, documents[places], labels[places], slice(None), SCALE, objective, hardness, guides
        )
    assert masked.item() <= len(rows) * len(places)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(value, made), gradient(expected, made), rtol=1e-10, atol=1e-12)


def test_one_row_with_many_negatives_costs_those_and_not_as_many_for_every_row():
    """4,096 rows of which one has 400; as wide as this one all rows would be 1.6 million documents."""
    queries, documents = normalize(torch.randn(4096, 8)), normalize(torch.randn(4096 + 400, 8))
    labels = torch.stack([torch.arange(4496) % 4096, torch.arange(4496) % 4096, 4096 + torch.arange(4496)], dim=1)
    labels[4096:, :2] = 7
    value, masked = contrastive_loss(
        queries, documents, labels, slice(0, 8), SCALE, "mnrl", Hardness("hard_negatives", 5)
    )
    assert masked.item() == 0
    scores = SCALE * queries[:8] @ documents.T
    scores[7, 4096:] += 5 * queries[7] @ documents[4096:].T
    assert value.item() == pytest.approx(torch.nn.functional.cross_entropy(scores, torch.arange(8)).item(), rel=1e-5)


@pytest.mark.parametrize("objective", DIRECTIONS)
def test_the_gradient_is_the_slope(objective):
    labels = labels_of([(0, 1, 2), (3, 4, 5), (0, 6, NO_GROUP), (7, 4, 8)])
    made = embeddings(2, rows=4)
    assert torch.autograd.gradcheck(lambda made: ours(made, labels, objective, slice(1, 4), scale=3.0)[0], (made,))


@pytest.mark.parametrize(("objective", "expected"), [("mnrl", 0), ("symmetric", 0), ("gte", math.log(2))])
def test_a_batch_of_one_positive_alone_teaches_nothing_and_breaks_nothing(objective, expected):
    """With all four directions the positive pair itself is met twice."""
    made = embeddings(1, dtype=torch.float32)
    value, masked = ours(made, labels_of([[row, 100] for row in range(ROWS)]), objective)
    assert value.item() == pytest.approx(expected, abs=1e-6)
    assert masked.item() == ROWS * (ROWS - 1)
    if objective == "gte":
        assert gradient(value, made).isfinite().all()
    else:
        assert not gradient(value, made).any()


@OBJECTIVES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_scored_in_fp32(objective, dtype):
    halves = embeddings(2, dtype=dtype)
    floats = halves.detach().float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, _ = ours(halves, apart(2), objective)
    expected, _ = ours(floats, apart(2), objective)
    assert value.dtype == torch.float32
    assert value.item() == expected.item()
    assert torch.equal(gradient(value, halves), gradient(expected, floats).to(dtype))


def test_a_loss_scaler_saves_gradients_too_small_for_fp16():
    halves = embeddings(1, dtype=torch.float16)
    floats = halves.detach().float().requires_grad_()
    (value, _), (expected, _) = (ours(one, apart(1), "mnrl", scale=1e-6) for one in (halves, floats))
    assert torch.equal(gradient(value * 2**16, halves), (gradient(expected, floats) * 2**16).half())
    assert gradient(expected, floats).abs().max() < torch.finfo(torch.float16).smallest_normal


@OBJECTIVES
def test_extreme_scores_do_not_overflow(objective):
    exact, single = embeddings(2), embeddings(2, dtype=torch.float32)
    expected, _ = ours(exact, apart(2), objective, scale=1e4)
    value, _ = ours(single, apart(2), objective, scale=1e4)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradient(value, single).double(), gradient(expected, exact), rtol=1e-4, atol=1e-2)


@OBJECTIVES
def test_the_host_never_waits_for_a_value(objective):
    """Fake tensors have none to wait for."""
    with FakeTensorMode():
        made = torch.randn(3, ROWS, DIMENSION, requires_grad=True)
        value, masked = ours(made, torch.zeros(2 * ROWS, 3, dtype=torch.int64), objective)
        assert gradient(value, made).shape == made.shape
        with pytest.raises(DataDependentOutputException):
            masked.item()


# Prints by how many bytes a loss of a large batch and its gradients raise the peak of this process's memory.
MEASURE = """
import resource, sys, torch
from mnrl_job.training.losses.contrastive_loss import contrastive_loss
objective, own = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
sides = [torch.randn(65_536, 384) for _ in range(2)]
for side in sides:
    side.div_(side.norm(dim=1, keepdim=True)).requires_grad_()
labels = torch.arange(3 * 65_536).reshape(-1, 3)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
contrastive_loss(*sides, labels, slice(1024, 1024 + own), 20.0, objective)[0].backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize(("objective", "own"), [("mnrl", 2048), pytest.param("gte", 512, marks=pytest.mark.slow)])
def test_a_large_batch_needs_less_than_a_gibibyte(objective, own):
    """65,536 rows, whose score matrix alone would take 16 GiB; measured is what the loss adds to its inputs.

    Only some rows have their loss computed, for speed: the tiles of the others would come one after another, each in
    the memory that the last one left, and the gradients are those of the whole batch anyway.
    """
    measured = run_python(MEASURE, objective, own).communicate()[0]
    assert int(measured) < 2**30, measured


def test_gathered_rows_and_their_gradients_equal_the_librarys(two_ranks):
    found = two_ranks.ask("gather")
    assert found["ours"] == found["theirs"]
    assert found["ours"]["rows"] == [[0, 1], [2, 3], [10, 11], [12, 13]]
    assert found["ours"]["gradient"] == [[0, 3], [6, 9]]


def test_a_process_alone_gathers_its_own_rows():
    own = torch.zeros(2, 3)
    assert all_gather_with_grad(own) is own
