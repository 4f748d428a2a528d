"""`check` of large data by a sample, with a threshold that small data exceeds."""

import gzip
import random

import pytest

from mnrl_job.config.reader import read_settings
from mnrl_job.data import sample, sample_file
from mnrl_job.errors import DataError
from mnrl_job.pipeline import check_sample
from mnrl_job.pipeline.check import check
from mnrl_job.pipeline.check_sample import check_bad_rows, describe_sample, effective_rows, wilson_interval
from mnrl_job.system import machine
from tests.data.test_sample import read_sample
from tests.examples import write_jsonl

ROWS = 30_000


@pytest.fixture
def run_check(good, tmp_path, monkeypatch):
    """Run `check` in this process. Returns its findings by name, and the audit."""
    monkeypatch.setattr(sample, "SAMPLED_ABOVE", 20_000)
    monkeypatch.setattr(sample_file, "HEAD", 1 << 14)
    monkeypatch.setattr(check_sample, "SAMPLED_ROWS", 2_000)
    monkeypatch.chdir(tmp_path)

    def run(full=False, **changes):
        settings, _ = read_settings("check", {}, good | changes, {})
        findings, audit = check(settings, lambda _: None, full)
        return {finding.check: finding for finding in findings}, audit

    return run


def write_rows(path, count=ROWS, bad=()):
    """Pairs, of which some lack the positive."""
    rows = (
        {"anchor": f"question {row}", "positive": "" if row in bad else f"answer {row} of {path.stem}"}
        for row in range(count)
    )
    return write_jsonl(path, rows)


@pytest.mark.parametrize("run_length", [1, 30])
def test_the_share_of_bad_rows_lies_in_its_interval(tmp_path, monkeypatch, run_length):
    """Also if they come in runs, about which neighbouring rows say little."""
    monkeypatch.setattr(sample, "SAMPLED_ABOVE", 1_000)
    monkeypatch.setattr(sample_file, "HEAD", 1 << 14)
    monkeypatch.setattr(sample_file, "BLOCK_ROWS", 20)
    monkeypatch.setattr(check_sample, "BLOCK_ROWS", 20)
    hits = 0
    for seed in range(20):
        rng = random.Random(seed)
        starts = rng.sample(range(20_000 - run_length), 1_500 // run_length)
        bad = {start + row for start in starts for row in range(run_length)}
        (folder := tmp_path / str(seed)).mkdir()
        _, pairs, _ = read_sample(write_rows(folder / "a.jsonl", 20_000, bad), folder)
        share = pairs.rejected["empty"] / pairs.rows_read
        low, high = wilson_interval(share, effective_rows(pairs.rows_read, share, pairs.bad_rows))
        hits += low <= len(bad) / 20_000 <= high
        assert high - low < (0.03 if run_length == 1 else 0.15)
    assert hits >= 17


def test_a_check_of_a_sample_says_what_it_estimates_and_predicts_the_whole(run_check, tmp_path, monkeypatch):
    """The batch is larger than the sample of the second source, and than all that the first check would read."""
    write_rows(tmp_path / "pairs.jsonl")
    write_rows(tmp_path / "more.jsonl", 3_300)
    (tmp_path / "memory.max").write_text("1000000")
    (tmp_path / "memory.current").write_text("0")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    found, audit = run_check(
        MNRL_TRAIN_DATA="pairs.jsonl,more:1=more.jsonl",
        MNRL_BATCH_SIZE="600",
        MNRL_EPOCHS="3",
        MNRL_NUM_HARD_NEGATIVES="1",
        MNRL_OUTPUT=str(tmp_path / "out"),
    )
    assert [finding for finding in found.values() if finding.status == "failed"] == []
    rows = int(found["sample"].detail.split()[2])
    assert 32_000 < rows < 34_000
    assert "--full" in found["sample"].detail
    assert "at most 0." in found["rows"].detail
    assert "at least 0 exact duplicates" in found["training pairs"].detail
    assert found["batches"].detail.startswith("10 of 600 "), "five of each source, by their weights"
    assert ": 30 steps of " in found["expected time"].detail
    assert (found["preparing"].status, found["mining"].status) == ("warning", "passed")
    assert "memory limit" in found["preparing"].remedy
    assert "of disk on each machine" in found["mining"].detail
    assert audit["sample"]["rows_in_all"] == rows
    assert audit["sample"]["rows"] < 4_000
    assert {"anchor tokens", "positive tokens"} <= found.keys()
    assert not list((tmp_path / "out").rglob("*"))


def test_a_sample_says_of_how_many_files_it_is_only_the_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "SAMPLED_ABOVE", 1_000)
    monkeypatch.setattr(sample_file, "HEAD", 1 << 12)
    (tmp_path / "data").mkdir()
    plain = write_rows(tmp_path / "data" / "a.jsonl")
    assert "beginning" not in describe_sample([read_sample(plain, tmp_path)[0]])
    (tmp_path / "data" / "b.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert "of 1 of them only the beginning" in describe_sample([read_sample(plain.parent, tmp_path)[0]])


def test_a_filter_that_no_sampled_row_matches_is_no_failure(run_check, tmp_path):
    rows = write_rows(tmp_path / "pairs.jsonl").read_text().replace('{"', '{"label": 0, "', ROWS)
    (tmp_path / "pairs.jsonl").write_text(rows)
    found, _ = run_check(MNRL_ROW_FILTER="label=1")
    assert found["rows"].status == "warning"
    assert "matches no row" in found["rows"].detail
    assert "--full" in found["rows"].remedy


def test_one_bad_row_is_found_by_reading_all_rows(run_check, tmp_path):
    write_rows(tmp_path / "pairs.jsonl", bad={15_000})
    found, _ = run_check(full=True)
    assert found["data"].kind == "data"
    assert "pairs.jsonl:15001: empty" in found["data"].detail
    assert "sample" not in found


@pytest.mark.parametrize(("ratio", "expected"), [(0, "failed"), (0.001, "failed"), (0.01, "warning"), (0.03, "passed")])
def test_bad_rows_fail_the_check_if_all_rows_certainly_have_too_many(tmp_path, monkeypatch, ratio, expected):
    monkeypatch.setattr(sample, "SAMPLED_ABOVE", 1_000)
    _, pairs, _ = read_sample(write_rows(tmp_path / "pairs.jsonl", bad=range(50, ROWS, 101)), tmp_path)
    if expected != "failed":
        assert check_bad_rows(pairs, ratio).status == expected
        return
    with pytest.raises(DataError, match=rf"pairs\.jsonl:51: empty .*MNRL_MAX_BAD_ROW_RATIO={ratio:g} "):
        check_bad_rows(pairs, ratio)


def test_a_batch_larger_than_all_rows_fails_the_check_of_a_sample(run_check, tmp_path):
    write_rows(tmp_path / "pairs.jsonl")
    found, _ = run_check(MNRL_BATCH_SIZE="40000")
    assert found["batches"].status == "failed"
    assert found["batches"].kind == "settings"
