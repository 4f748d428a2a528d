"""Near-duplicates: what similarity says, found fast, by one process or several."""

import os
import random
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mnrl_job.data.tables import write_columns
from mnrl_job.deduplication import minhash, near_duplicates
from mnrl_job.deduplication.minhash import Column, band_rows, compute_signatures
from mnrl_job.deduplication.near_duplicates import merge
from mnrl_job.deduplication.text_similarity import normalize, text_id, word_pairs
from tests.examples import write_pairs
from tests.program import ROOT, clean_environment, command

LONG = "every invoice is listed under billing with a link and can be had as a file by mail or by post at any time"


def groups_of(texts, threshold, tmp_path):
    write_columns(tmp_path / "texts.arrow", text=texts)
    signed = compute_signatures([Column(tmp_path / "texts.arrow", "text")], threshold, tmp_path / "signed")
    return merge(signed, threshold).tolist()


def jaccard(one, other):
    first, second = (set(word_pairs(normalize(text))) for text in (one, other))
    return len(first & second) / len(first | second)


def made_up(count, seed=0):
    """Texts, and for each a copy with some of its words replaced."""
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
def test_what_is_as_similar_as_the_threshold_is_found_and_nothing_else(tmp_path, threshold):
    texts = list(made_up(400))
    groups = groups_of(texts, threshold, tmp_path)
    alike = [jaccard(*texts[at : at + 2]) >= threshold for at in range(0, len(texts), 2)]
    found = [groups[at] == groups[at + 1] for at in range(0, len(texts), 2)]
    assert 20 < sum(alike) < 400
    assert not any(one and not two for one, two in zip(found, alike, strict=True)), "none is merged that is not alike"
    assert sum(found) >= 0.98 * sum(alike)


def boilerplate(count, seed=0):
    """Texts that share most of their words, and for each a copy with one of its own words replaced."""
    rng = random.Random(seed)
    common = " ".join(f"common{i}" for i in range(30))
    for _ in range(count):
        own = [f"word{rng.randrange(5000)}" for _ in range(30)]
        copy = own.copy()
        copy[rng.randrange(len(own))] = "another"
        yield f"{common} {' '.join(own)}"
        yield f"{common} {' '.join(copy)}"


def variants(count):
    """Texts with several copies each, every one with another word replaced: alike to the text, not to one another."""
    for text in range(count // 15):
        words = [f"text{text}word{i}" for i in range(60)]
        yield " ".join(words)
        for at in range(1, 59, 2):
            yield " ".join([*words[:at], "another", *words[at + 1 :]])


@pytest.mark.parametrize("threshold", [0.7, 0.8, 0.9])
@pytest.mark.parametrize("make", [made_up, boilerplate, variants])
def test_groups_are_those_of_comparing_every_text_with_every_other(tmp_path, threshold, make):
    """Also where many texts that are not alike are candidates of one another."""
    texts = list(make(120))
    random.Random(1).shuffle(texts)
    sets = [set(word_pairs(normalize(text))) for text in texts]
    alike = [
        (a, b) for a in range(240) for b in range(a) if len(sets[a] & sets[b]) >= threshold * len(sets[a] | sets[b])
    ]
    graph = coo_array((np.ones(len(alike)), np.array(alike).T), shape=(240, 240))
    expected = connected_components(graph, directed=False)[1]
    groups = np.array(groups_of(texts, threshold, tmp_path))
    assert len(alike) > 20
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
def test_likeness_in_any_script(tmp_path, one, other, same):
    groups = groups_of([one, other], 0.9, tmp_path)
    assert (groups[0] == groups[1]) == same


def test_a_text_just_below_the_threshold_stays_apart(tmp_path):
    words = [f"w{i}" for i in range(21)]
    texts = [" ".join(words), " ".join([*words[:-2], "x", "y"])]
    assert jaccard(*texts) == 18 / 22  # 0.818
    assert len(set(groups_of(texts, 0.82, tmp_path))) == 2
    assert len(set(groups_of(texts, 0.81, tmp_path))) == 1


def test_very_long_texts_are_compared(tmp_path):
    """So many word pairs that some share a number, which must not stand twice: comparing would need 12 GB, or fail."""
    text = " ".join(map(str, range(200_000)))
    write_columns(tmp_path / "texts.arrow", text=[text, f"{text} more", "short"])
    signed = compute_signatures([Column(tmp_path / "texts.arrow", "text")], 0.9, tmp_path / "signed")
    first = signed.pairs[: signed.starts[1]]
    assert len(first) < 199_999, "some do share one"
    assert len(np.unique(first)) == len(first)
    groups = merge(signed, 0.9)
    assert groups[0] == groups[1] != groups[2]


def test_comparing_long_texts_takes_little_memory(tmp_path, monkeypatch):
    """Block by block, which must not show in the result."""
    texts = [" ".join(map(str, range(20_000 + i))) for i in range(40)]
    write_columns(tmp_path / "texts.arrow", text=[*texts, "short", "shorter"])
    tracemalloc.start()
    signed = compute_signatures([Column(tmp_path / "texts.arrow", "text")], 0.9, tmp_path / "signed")
    signing = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    groups = merge(signed, 0.9)
    merging = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(groups.tolist())) == 3
    assert signing < 30e6
    assert merging < 250e6
    monkeypatch.setattr(near_duplicates, "WORD_PAIRS_AT_ONCE", 100_000)
    assert merge(signed, 0.9).tolist() == groups.tolist()


def test_every_one_of_many_copies_is_found(tmp_path):
    texts = [f"{LONG} {i}" for i in range(300)] + ["something else altogether, said in a few other words than those"]
    assert len(set(groups_of(texts, 0.9, tmp_path))) == 2


def test_groups_are_transitive(tmp_path):
    chain = [" ".join(f"{'new' if at > 60 - changed else 'old'}{at}" for at in range(60)) for changed in range(8)]
    assert jaccard(chain[0], chain[-1]) < 0.9 <= jaccard(chain[0], chain[1])
    assert len(set(groups_of(chain, 0.9, tmp_path))) == 1


def test_without_a_threshold_only_equal_texts_are_one(tmp_path):
    groups = groups_of([LONG, LONG.upper(), f"{LONG} 1"], None, tmp_path)
    assert groups[0] == groups[1] != groups[2]


@pytest.mark.filterwarnings("error")
def test_texts_without_a_word_are_alike_only_when_equal(tmp_path):
    groups = groups_of(["?!", "🎉", "…", "?!", "🎉🎉"], 0.9, tmp_path)
    assert len(set(groups)) == 4
    assert groups[0] == groups[3]


def test_no_texts_are_no_groups(tmp_path):
    assert groups_of([], 0.9, tmp_path) == []


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9, 0.99, 1.0])
def test_bands_find_what_is_just_at_the_threshold(threshold):
    rows = band_rows(threshold)
    bands = minhash.PERMUTATIONS // rows
    assert 1 - (1 - threshold**rows) ** bands >= 0.99


def test_several_processes_sign_as_one_does(tmp_path, monkeypatch):
    """Eight chunks are worth a pool; the machine's number of cores must not show in the result."""
    monkeypatch.setattr(minhash, "TEXTS_PER_CHUNK", 50)
    texts = [f"{LONG} {i}" for i in range(8 * 50 - 7)]
    write_columns(tmp_path / "texts.arrow", text=texts)
    column = [Column(tmp_path / "texts.arrow", "text")]
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    several = compute_signatures(column, 0.9, tmp_path / "several")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    one = compute_signatures(column, 0.9, tmp_path / "one")
    for name in ("ids", "bands", "pairs", "starts"):
        np.testing.assert_array_equal(getattr(several, name), getattr(one, name))
    assert one.ids.tolist() == [text_id(normalize(text)) for text in texts]


KILLED = """
import sys
from pathlib import Path
from mnrl_job.deduplication.minhash import Column, compute_signatures
if __name__ == "__main__":
    print("signing", flush=True)
    compute_signatures([Column(Path(sys.argv[1]), "text")] * 50, 0.9, Path(sys.argv[2]))
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has no helpers")
def test_helper_processes_end_with_a_parent_that_is_killed(tmp_path):
    """In a script of its own: helpers import the main module anew."""
    write_columns(tmp_path / "texts.arrow", text=[f"{LONG} {i}" for i in range(20_000)])
    (tmp_path / "script.py").write_text(KILLED, encoding="utf-8")
    command = [sys.executable, tmp_path / "script.py", tmp_path / "texts.arrow", tmp_path / "signed"]
    parent = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE)
    parent.stdout.readline()

    def helpers():
        return pgrep("-P", str(parent.pid), "-f", "spawn_main")

    until(helpers)
    born = helpers()
    assert born
    parent.kill()
    parent.wait()
    until(lambda: not set(born) & set(pgrep("-f", "spawn_main")))
    assert not set(born) & set(pgrep("-f", "spawn_main"))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has no helpers")
def test_helpers_that_are_killed_end_the_run_whatever_they_were_about_to_tell(tmp_path):
    """What helpers tell to a parent that is stopped waits in the pipe, and a long message would be cut off there."""
    write_columns(tmp_path / "texts.arrow", text=[f"{LONG} {i}" for i in range(20_000)])
    (tmp_path / "script.py").write_text(KILLED, encoding="utf-8")
    command = [sys.executable, tmp_path / "script.py", tmp_path / "texts.arrow", tmp_path / "signed"]
    parent = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stderr=subprocess.PIPE, text=True)

    def helpers():
        return pgrep("-P", str(parent.pid), "-f", "spawn_main")

    try:
        until(lambda: helpers() and all(map(ignores_interrupts, helpers())))
        parent.send_signal(signal.SIGSTOP)
        born = helpers()
        until(lambda: not any(map(works, born)))
        for helper in born:
            os.kill(int(helper), signal.SIGKILL)
        parent.send_signal(signal.SIGCONT)
        _, errors = parent.communicate(timeout=120)
    finally:
        parent.kill()
    assert "InternalError: a helper that reads texts was killed; the machine may be out of memory" in errors


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has no helpers")
@pytest.mark.parametrize("request_", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_while_it_reads_texts_stops_and_leaves_no_helper(tmp_path, good, request_):
    """As from a terminal or a batch system: to all processes of the group."""
    write_pairs(tmp_path / "pairs.jsonl", ((f"question {i}", f"{LONG} {i} {LONG} {i + 1}") for i in range(90_000)))
    run = subprocess.Popen(
        command("train"),
        cwd=tmp_path,
        env=clean_environment(**good),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    born: list[str] = []

    def ready():
        born[:] = pgrep("-P", str(run.pid), "-f", "spawn_main")
        return born and all(map(ignores_interrupts, born))

    until(ready)
    os.killpg(run.pid, request_)
    _, errors = run.communicate(timeout=120)
    assert born
    assert "Traceback" not in errors, "helpers leave the answer to the parent"
    assert run.returncode == 75, errors
    assert f"stopped on request ({request_.name}); nothing was published" in errors.strip().splitlines()[-1]
    assert not set(born) & set(pgrep("-f", "spawn_main"))


def ignores_interrupts(pid):
    with suppress(FileNotFoundError, ProcessLookupError):
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        return bool(int(re.search(r"SigIgn:\s*(\w+)", status)[1], 16) & 1 << signal.SIGINT - 1)
    return False


def works(pid, seconds=0.5):
    """Whether a process uses the processor."""
    before = used(pid)
    time.sleep(seconds)
    return used(pid) > before


def used(pid):
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11])


def pgrep(*arguments):
    return subprocess.run(["pgrep", *arguments], capture_output=True, text=True).stdout.split()


def until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
