"""The tiled loss is the library's, value and gradients, leaves out false negatives, and needs little memory."""

import math
from types import SimpleNamespace

import pytest
import torch
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
from mnrl_job.training.losses.contrastive_loss import LossConfig, contrastive_loss
from tests.program import run_python
from tests.training.losses.embeddings import (
    DIMENSION,
    DIRECTIONS,
    LIBRARY,
    MODES,
    ROWS,
    SCALE,
    apart,
    batch_labels,
    embeddings,
    gradient,
    guides_of,
    labels_of,
    ours,
    set_tiles,
)

OBJECTIVES = pytest.mark.parametrize("objective", LIBRARY)


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


def test_one_row_with_many_negatives_costs_those_and_not_as_many_for_every_row():
    """4,096 rows of which one has 400; as wide as this one all rows would be 1.6 million documents."""
    queries, documents = normalize(torch.randn(4096, 8)), normalize(torch.randn(4096 + 400, 8))
    labels = torch.stack([torch.arange(4496) % 4096, torch.arange(4496) % 4096, 4096 + torch.arange(4496)], dim=1)
    labels[4096:, :2] = 7
    value, masked = contrastive_loss(
        queries, documents, batch_labels(labels), slice(0, 8), LossConfig(SCALE, "mnrl", Hardness("hard_negatives", 5))
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
        value, masked = ours(
            made, batch_labels(torch.zeros(2 * ROWS, 3, dtype=torch.int64), [(0, 0), (0, 1)]), objective
        )
        assert gradient(value, made).shape == made.shape
        with pytest.raises(DataDependentOutputException):
            masked.item()


# Prints by how many bytes a loss of a large batch and its gradients raise the peak of this process's memory.
MEASURE = """
import resource, sys, torch
from mnrl_job.training.losses.contrastive_loss import LossConfig, contrastive_loss
from mnrl_job.training.losses.false_negatives import BatchLabels
objective, own = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
sides = [torch.randn(65_536, 384) for _ in range(2)]
for side in sides:
    side.div_(side.norm(dim=1, keepdim=True)).requires_grad_()
documents = torch.arange(3 * 65_536).reshape(-1, 3)
labels, config = BatchLabels(documents, documents[:0, 1:]), LossConfig(20.0, objective)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
contrastive_loss(*sides, labels, slice(1024, 1024 + own), config)[0].backward()
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
