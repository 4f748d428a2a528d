"""Near-duplicates are found by their similarity, fast and in little memory."""

import random
import tracemalloc

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mnrl_job.data.tables import write_columns
from mnrl_job.deduplication import minhash, near_duplicates
from mnrl_job.deduplication.minhash import Column, band_rows, compute_signatures
from mnrl_job.deduplication.near_duplicates import find_representatives, number_texts
from mnrl_job.deduplication.text_similarity import normalize, word_pairs
from tests.deduplication.rows import LONG


def groups_of(texts, threshold, tmp_path):
    write_columns(tmp_path / "texts.arrow", text=texts)
    signatures = compute_signatures([Column(tmp_path / "texts.arrow", "text")], threshold, tmp_path / "signed")
    return find_representatives(number_texts(signatures.ids), signatures, threshold).tolist()


def jaccard(one, other):
    first, second = (set(word_pairs(normalize(text))) for text in (one, other))
    return len(first & second) / len(first | second)


def random_texts(count, seed=0):
    """Random texts, each followed by a copy with some words replaced."""
    rng = random.Random(seed)
    words = [f"word{i}" for i in range(3000)]
    for _ in range(count):
        text = rng.choices(words, k=rng.randint(15, 60))
        copy = list(text)
        for at in rng.sample(range(len(copy)), rng.randint(0, 4)):
            copy[at] = rng.choice(words)
        yield " ".join(text)
        yield " ".join(copy)


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.9, 0.95])
def test_texts_are_grouped_from_the_threshold_on(tmp_path, threshold):
    texts = list(random_texts(400))
    groups = groups_of(texts, threshold, tmp_path)
    is_similar = [jaccard(*texts[at : at + 2]) >= threshold for at in range(0, len(texts), 2)]
    is_grouped = [groups[at] == groups[at + 1] for at in range(0, len(texts), 2)]
    assert 20 < sum(is_similar) < 400
    assert not any(one and not two for one, two in zip(is_grouped, is_similar, strict=True)), (
        "none is merged that is not alike"
    )
    assert sum(is_grouped) >= 0.98 * sum(is_similar)


def boilerplate(count, seed=0):
    """Texts that share half of their words, each followed by a copy with one of its other words replaced."""
    rng = random.Random(seed)
    common = " ".join(f"common{i}" for i in range(30))
    for _ in range(count):
        own_words = [f"word{rng.randrange(5000)}" for _ in range(30)]
        copy = own_words.copy()
        copy[rng.randrange(len(own_words))] = "another"
        yield f"{common} {' '.join(own_words)}"
        yield f"{common} {' '.join(copy)}"


def variants(count):
    """Texts with several copies, each with another word replaced: similar to the text, but not to each other."""
    for text in range(count // 15):
        words = [f"text{text}word{i}" for i in range(60)]
        yield " ".join(words)
        for at in range(1, 59, 2):
            yield " ".join([*words[:at], "another", *words[at + 1 :]])


@pytest.mark.parametrize("threshold", [0.7, 0.8, 0.9])
@pytest.mark.parametrize("make", [random_texts, boilerplate, variants])
def test_groups_equal_those_of_comparing_all_pairs_of_texts(tmp_path, threshold, make):
    """Even if many texts that are not similar are candidates."""
    texts = list(make(120))
    random.Random(1).shuffle(texts)
    sets = [set(word_pairs(normalize(text))) for text in texts]
    is_similar = [
        (a, b) for a in range(240) for b in range(a) if len(sets[a] & sets[b]) >= threshold * len(sets[a] | sets[b])
    ]
    graph = coo_array((np.ones(len(is_similar)), np.array(is_similar).T), shape=(240, 240))
    expected = connected_components(graph, directed=False)[1]
    groups = np.array(groups_of(texts, threshold, tmp_path))
    assert len(is_similar) > 20
    assert all(len(set(expected[groups == group])) == 1 for group in groups), "none is merged that is not alike"
    assert len(set(groups)) - len(set(expected)) <= 2, "one text in a hundred may be missed"


RESET = "请打开设置并选择安全选项来重置您的密码然后按照屏幕上的提示完成操作"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (RESET, f"{RESET}吧", True),
        (RESET, "发票可以在账单页面下载也可以通过邮件发送给您的会计请联系客服", False),
        ("मेरा बड़ा बेटा आता", "मेरी बड़ी बेटी आती", False),
        ("Open Settings, then “Security” — new pass-word!", "open settings then security new pass word", True),
    ],
)
def test_near_duplicates_are_found_in_any_script(tmp_path, one, other, same):
    groups = groups_of([one, other], 0.9, tmp_path)
    assert (groups[0] == groups[1]) == same


def test_a_text_just_below_the_threshold_stays_apart(tmp_path):
    words = [f"w{i}" for i in range(21)]
    texts = [" ".join(words), " ".join([*words[:-2], "x", "y"])]
    assert jaccard(*texts) == 18 / 22  # 0.818
    assert len(set(groups_of(texts, 0.82, tmp_path))) == 2
    assert len(set(groups_of(texts, 0.81, tmp_path))) == 1


def test_very_long_texts_are_compared(tmp_path):
    """So many word pairs that hashes collide, which must be deduplicated: comparing would need 12 GB, or fail."""
    text = " ".join(map(str, range(200_000)))
    write_columns(tmp_path / "texts.arrow", text=[text, f"{text} more", "short"])
    signatures = compute_signatures([Column(tmp_path / "texts.arrow", "text")], 0.9, tmp_path / "signed")
    first = signatures.pairs[: signatures.starts[1]]
    assert len(first) < 199_999, "some do share one"
    assert len(np.unique(first)) == len(first)
    groups = find_representatives(number_texts(signatures.ids), signatures, 0.9)
    assert groups[0] == groups[1] != groups[2]


def test_comparing_long_texts_takes_little_memory(tmp_path, monkeypatch):
    """The result must not depend on the block size."""
    texts = [" ".join(map(str, range(20_000 + i))) for i in range(40)]
    write_columns(tmp_path / "texts.arrow", text=[*texts, "short", "shorter"])
    tracemalloc.start()
    signatures = compute_signatures([Column(tmp_path / "texts.arrow", "text")], 0.9, tmp_path / "signed")
    signature_memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    groups = find_representatives(number_texts(signatures.ids), signatures, 0.9)
    grouping_memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(groups.tolist())) == 3
    assert signature_memory < 30e6
    assert grouping_memory < 250e6
    monkeypatch.setattr(near_duplicates, "WORD_PAIRS_PER_BLOCK", 100_000)
    assert find_representatives(number_texts(signatures.ids), signatures, 0.9).tolist() == groups.tolist()


def test_every_one_of_many_copies_is_found(tmp_path):
    texts = [f"{LONG} {i}" for i in range(300)] + ["something else altogether, said in a few other words than those"]
    assert len(set(groups_of(texts, 0.9, tmp_path))) == 2


def test_groups_are_transitive(tmp_path):
    chain = [" ".join(f"{'new' if at > 60 - changed else 'old'}{at}" for at in range(60)) for changed in range(8)]
    assert jaccard(chain[0], chain[-1]) < 0.9 <= jaccard(chain[0], chain[1])
    assert len(set(groups_of(chain, 0.9, tmp_path))) == 1


def test_without_a_threshold_only_equal_texts_are_in_one_group(tmp_path):
    groups = groups_of([LONG, LONG.upper(), f"{LONG} 1"], None, tmp_path)
    assert groups[0] == groups[1] != groups[2]


@pytest.mark.filterwarnings("error")
def test_texts_without_a_word_are_duplicates_only_if_equal(tmp_path):
    groups = groups_of(["?!", "🎉", "…", "?!", "🎉🎉"], 0.9, tmp_path)
    assert len(set(groups)) == 4
    assert groups[0] == groups[3]


def test_without_texts_there_are_no_groups(tmp_path):
    assert groups_of([], 0.9, tmp_path) == []


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9, 0.99, 1.0])
def test_bands_find_what_is_just_at_the_threshold(threshold):
    rows = band_rows(threshold)
    bands = minhash.PERMUTATIONS // rows
    assert 1 - (1 - threshold**rows) ** bands >= 0.99
