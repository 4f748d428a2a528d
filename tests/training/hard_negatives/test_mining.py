"""Hard negatives are the nearest documents that may be wrong: never one's own, never as near as the positive."""

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.setting_types import RankRange
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.ragged import Ragged, no_values, offsets_of
from mnrl_job.data.tables import NO_GROUP, read_table, write_columns, write_labels
from mnrl_job.embedding.chunks import default_chunk_budget
from mnrl_job.embedding.masks import embed
from mnrl_job.system.record_files import write_record
from mnrl_job.training.collator import TextCollator, TokenCollator, build_collator
from mnrl_job.training.hard_negatives import document_index, mining
from mnrl_job.training.hard_negatives.document_index import build_index
from mnrl_job.training.hard_negatives.mining import NO_ROW, MiningConfig, find_candidates, mine, search
from mnrl_job.training.hard_negatives.mining_rounds import HardNegatives
from mnrl_job.training.inputs import TrainingData
from tests.waits import counted_waits

WORDS = (
    "open",
    "close",
    "window",
    "file",
    "network",
    "printer",
    "sound",
    "disk",
    "mail",
    "password",
    "screen",
    "light",
)
ROWS = 48


@pytest.fixture
def data(tmp_path):
    """Pairs of random sentences, all different, so that each text is a group, the positive near to the anchor."""
    rng = np.random.default_rng(0)
    words = [rng.choice(WORDS, 5, replace=False) for _ in range(ROWS)]
    texts = [[" ".join(some) for some in words], [f"{' '.join(some[:4])} please" for some in words]]
    assert len({*texts[0], *texts[1]}) == 2 * ROWS
    write_columns(tmp_path / "pairs.arrow", anchor=texts[0], positive=texts[1])
    write_labels(tmp_path / "labels.arrow", np.arange(2 * ROWS).reshape(2, ROWS).T)
    np.save(tmp_path / "plan.npy", np.arange(ROWS).reshape(3, -1))
    pairs = Pairs(tmp_path / "pairs.arrow", ("anchor", "positive"), ROWS, ROWS, {}, (), ())
    return TrainingData(pairs, BatchPlan(tmp_path / "labels.arrow", tmp_path / "plan.npy", 3))


def texts_of(pairs):
    return [column.to_pylist() for column in read_table(pairs.path).columns]


def config_of(count, margin=0.0, places="1-100"):
    first, last = map(int, places.split("-"))
    return MiningConfig(count, RankRange(first, last), margin)


def test_hard_negatives_equal_the_librarys(minilm, data, tmp_path):
    model = SentenceTransformer(str(minilm), device="cpu")
    pairs = data.pairs
    anchors, positives = texts_of(pairs)
    groups = np.arange(2 * ROWS).reshape(2, ROWS).T
    candidates = find_candidates(groups, no_values(len(groups)), np.zeros(ROWS, dtype=bool), np.arange(ROWS))
    found = mine(model, pairs, candidates, config_of(3, margin=0.05), "fp32", tmp_path / "mining")
    theirs = mine_hard_negatives(
        Dataset.from_dict({"anchor": anchors, "positive": positives}),
        model,
        num_negatives=3,
        range_max=ROWS,
        relative_margin=0.05,
        sampling_strategy="top",
        output_format="n-tuple",
        verbose=False,
    )
    assert len(theirs) > ROWS / 4
    for row in theirs:
        numbers = found.rows[anchors.index(row["anchor"])]
        assert [positives[number] for number in numbers] == [row[f"negative_{n}"] for n in (1, 2, 3)]
    short = set(range(ROWS)) - {anchors.index(row["anchor"]) for row in theirs}
    assert all(NO_ROW in found.rows[row] for row in short), "the library leaves such rows out"
    assert found.similarity < found.positive_similarity


GROUPS = st.lists(st.tuples(*3 * [st.integers(-1, 9)]), min_size=2, max_size=20).map(
    lambda rows: [(abs(anchor), abs(positive), negative) for anchor, positive, negative in rows]
)


def naive(scores, groups, non_minable, planned, config, row):
    """The negatives of a row, found one after another; scores of anchor groups and positive groups."""
    anchor, positive, _ = groups[row]
    own = {group for other in groups if other[0] == anchor for group in other}
    forbidden = own | {groups[other][1] for other in planned if non_minable[other]}
    others = sorted({groups[other][1] for other in planned} - forbidden, key=lambda group: -scores[anchor][group])
    window = others[config.ranks.first - 1 : config.ranks.last]
    of_positive = scores[anchor][positive]
    limit = of_positive - abs(of_positive) * config.relative_margin
    return [group for group in window if scores[anchor][group] <= limit][: config.num_negatives]


@pytest.fixture(scope="module")
def index_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("index")


@pytest.mark.parametrize("lists", ["all documents", "all lists", "some lists"])
@settings(deadline=None, max_examples=150)
@given(GROUPS, st.integers(1, 4), st.integers(0, 2), st.sampled_from([0.0, 0.3]), st.data())
def test_own_groups_and_eval_documents_are_never_mined_and_the_rank_range_is_respected(
    index_folder, lists, groups, count, skipped, margin, data
):
    non_minable = np.array(data.draw(st.lists(st.booleans(), min_size=len(groups), max_size=len(groups))))
    planned = data.draw(st.sets(st.integers(0, len(groups) - 1), min_size=1).map(sorted))
    config = config_of(count, margin, f"{skipped + 1}-{skipped + max(count, 5)}")
    numbers = np.array(groups)
    given = Ragged(numbers[:, 2][numbers[:, 2] != NO_GROUP], offsets_of(numbers[:, 2] != NO_GROUP))
    candidates = find_candidates(numbers[:, :2], given, non_minable, np.array(planned))
    rng = np.random.default_rng(len(groups))
    vectors = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(2, 10, 4))).float(), dim=-1)
    queries = torch.stack([vectors[0, groups[row][0]] for row in candidates.queries])
    documents = torch.stack([vectors[1, groups[row][1]] for row in candidates.documents])
    scores = vectors[0] @ vectors[1].T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_index, "MAX_EXACT", 100 if lists == "all documents" else 0)
        patch.setattr(document_index, "PROBES_PER_BRANCH", 1 if lists == "some lists" else 100)
        patch.setattr(document_index, "DOCUMENTS_PER_TILE", 3)
        index = build_index(documents.numpy(), index_folder)
    seen = 0
    for rows, positions, found, _ in search(queries, index, candidates, config):
        for row, position, score in zip(rows.tolist(), positions, found, strict=True):
            allowed = naive(scores, groups, non_minable, planned, config, row)
            taken = [groups[candidates.documents[one]][1] for one in index.order[position[score.isfinite()].numpy()]]
            if lists == "some lists":
                assert set(taken) <= set(naive(scores, groups, non_minable, planned, config_of(10, margin), row))
            else:
                assert taken == allowed
            seen += 1
    assert seen == len(planned)


def test_documents_relevant_by_unplanned_rows_are_not_mined(model, data, tmp_path):
    """Of one query only the first row is trained on; the second's answer is there by another query, too."""
    pairs = data.pairs
    groups = np.arange(2 * ROWS).reshape(2, ROWS).T
    groups[1] = groups[0, 0], groups[2, 1]
    candidates = find_candidates(groups, no_values(len(groups)), np.zeros(ROWS, dtype=bool), np.array([0, 2, 3]))
    found = mine(model, pairs, candidates, config_of(2, margin=-10.0), "fp32", tmp_path / "mining").rows
    assert found[0].tolist() == [3, NO_ROW]
    assert sorted(found[2]) == [0, 3]


def test_mining_in_tiles_gives_the_same_result(model, data, tmp_path, monkeypatch):
    pairs = data.pairs
    groups = np.arange(2 * ROWS).reshape(2, ROWS).T
    groups[5:9, 0] = groups[5, 0]
    candidates = find_candidates(groups, no_values(len(groups)), np.zeros(ROWS, dtype=bool), np.arange(ROWS))
    at_once = mine(model, pairs, candidates, config_of(2), "fp32", tmp_path / "mining")
    monkeypatch.setattr(document_index, "scores_per_tile", lambda _: 5 * ROWS)
    monkeypatch.setattr(document_index, "DOCUMENTS_PER_TILE", 13)
    monkeypatch.setattr(mining, "block_bytes", lambda _: 50_000)
    assert np.array_equal(mine(model, pairs, candidates, config_of(2), "fp32", tmp_path / "mining").rows, at_once.rows)


def test_the_number_of_synchronizations_does_not_depend_on_tiles(model, data, tmp_path, monkeypatch):
    pairs = data.pairs
    groups = np.arange(2 * ROWS).reshape(2, ROWS).T
    candidates = find_candidates(groups, no_values(len(groups)), np.arange(ROWS) % 7 == 0, np.arange(ROWS))
    mine(model, pairs, candidates, config_of(2), "fp32", tmp_path / "mining")  # tokenises
    counts = []
    for queries in (ROWS, 5, 1):
        monkeypatch.setattr(document_index, "scores_per_tile", lambda _, queries=queries: queries * ROWS)
        with counted_waits() as waits:
            mine(model, pairs, candidates, config_of(2), "fp32", tmp_path / "mining")
        counts.append(len(waits))
    assert counts[0] == counts[1] == counts[2] < 20


def test_negatives_are_mined_in_columns_over_2_gib(model, data, huge, tmp_path, monkeypatch):
    monkeypatch.setattr(mining, "read_table", lambda _: huge)
    pairs = replace(data.pairs, rows=huge.num_rows)
    rows = np.array([0, 1, huge.num_rows - 1])
    groups = np.arange(2 * huge.num_rows).reshape(2, -1).T
    found = mine(
        model,
        pairs,
        find_candidates(groups, no_values(len(groups)), np.zeros(len(groups), dtype=bool), rows),
        config_of(2),
        "fp32",
        tmp_path,
    )
    assert set(found.rows[rows].ravel().tolist()) <= {NO_ROW, *rows.tolist()}


def test_only_planned_rows_are_embedded_and_mined(model, data, tmp_path):
    pairs = data.pairs
    candidates = find_candidates(
        np.arange(2 * ROWS).reshape(2, ROWS).T, no_values(ROWS), np.zeros(ROWS, dtype=bool), np.array([3, 7, 20, 21])
    )
    seen = []
    model.register_forward_hook(lambda _, __, found: seen.append(len(found["sentence_embedding"])))
    found = mine(model, pairs, candidates, config_of(3), "fp32", tmp_path / "mining").rows
    assert sum(seen) == 8
    assert set(found.ravel()) <= {NO_ROW, 3, 7, 20, 21}
    assert (np.delete(found, [3, 7, 20, 21], axis=0) == NO_ROW).all()


def test_batches_hold_mined_negatives_and_their_labels(model, static_model, data, tmp_path):
    pairs = data.pairs
    _, positives = texts_of(pairs)
    negatives = HardNegatives(model, config_of(2), "fp32", data, np.load(data.batch_plan.plan)[:2], tmp_path)
    negatives.mine(0)
    mined = negatives._rows
    rows = [ROWS - 1, 0]
    assert (mined[rows] == NO_ROW).tolist() == [[True, True], [False, False]]
    expected = [positives[number] for number in mined[0]]
    for one, kind in ((model, TokenCollator), (static_model, TextCollator)):
        collate = build_collator(one, pairs, default_chunk_budget(torch.device("cpu")))
        collate.row_texts = replace(collate.row_texts, mined=negatives)
        batch = collate([{"label": [row, row, ROWS + row]} for row in rows])
        assert isinstance(collate, kind)
        assert batch["label"].tolist() == [[row, row, ROWS + row] for row in rows]
        assert batch["negatives"].tolist() == [[0, 0, ROWS + number] for number in mined[0]]
        with torch.no_grad():
            found = torch.cat([embed(one, chunk) for chunk in batch["chunks"]])[batch["order"]]
            wanted = one.encode(expected, convert_to_tensor=True)
        torch.testing.assert_close(found[4:], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("ranks", "max_exact"), [("two_ranks", ROWS), ("three_ranks", ROWS), ("two_ranks", 0)])
def test_several_ranks_split_the_mining_and_get_the_same_result(request, ranks, max_exact, model, data, tmp_path):
    pairs = data.pairs
    for name, record in {"pairs": pairs, "batching": data.batch_plan}.items():
        write_record(tmp_path / f"{name}.json", record)
    model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    found = request.getfixturevalue(ranks).ask("mine", tmp_path, max_exact)
    candidates = find_candidates(
        np.arange(2 * ROWS).reshape(2, ROWS).T, no_values(ROWS), np.zeros(ROWS, dtype=bool), np.arange(ROWS)
    )
    alone = mine(model, pairs, candidates, config_of(2), "fp32", tmp_path / "alone")
    assert found["rows"] == alone.rows.tolist()
    assert found["similarity"] == pytest.approx(alone.similarity, rel=1e-5)
    assert found["positive_similarity"] == pytest.approx(alone.positive_similarity, rel=1e-5)
    assert found["embedded"] < 1.5 * ROWS, "each has a share of the texts"
