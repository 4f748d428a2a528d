"""`check`: a table of passed, warning and failed checks with remedies."""

import gzip
import json
import re
import shutil
import signal
import subprocess

import pytest

from mnrl_job.config.reader import read_settings
from mnrl_job.pipeline.check import check_output
from mnrl_job.pipeline.findings import Findings
from mnrl_job.runs.attempt import start_attempt
from tests.examples import PAIRS, write_jsonl
from tests.program import clean_environment, command
from tests.servers.s3 import BUCKET, objects


def table(ended):
    """Status by check."""
    rows = re.findall(r"^(passed|warning|failed) +(.+?)  ", ended.stdout + "  ", flags=re.MULTILINE)
    return {check.strip(): status for status, check in rows}


def unwrapped(ended):
    """The table with the details of each row on one line."""
    return re.sub(r"\n {31}(?!->)", " ", ended.stdout)


def test_everything_train_needs_is_checked_and_no_file_is_left(mnrl_job, moto, good, tmp_path):
    """One of the negatives is a positive of its anchor elsewhere."""
    rows = [{"anchor": a, "positive": p, "negative": f"not {p}"} for a, p in PAIRS]
    rows.append({"anchor": PAIRS[0][0], "positive": f"not {PAIRS[0][1]}", "negative": "something else"})
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    environment = good | moto.environment | {"MNRL_OUTPUT": f"s3://{BUCKET}/check-runs"}
    environment |= {
        "MNRL_EPOCHS": "50",
        "MNRL_EVAL_INTERVAL": "20",
        "MNRL_NUM_HARD_NEGATIVES": "1",
        "MNRL_MINING_INTERVAL": "epoch",
        "MNRL_REPORT_TO": "tensorboard",
    }
    ended = mnrl_job("check", "--full", **environment)
    assert ended.code == 0, ended.stderr
    statuses = table(ended)
    assert {
        "settings",
        "tracker tensorboard",
        "output",
        "input pairs",
        "input faq",
        "base model",
        "devices",
        "user",
        "caches",
    } <= statuses.keys()
    assert {
        "disk",
        "training pairs",
        "eval set faq",
        "batches",
        "preparing",
        "model",
        "mining",
        "expected time",
        "grace period",
    } <= statuses.keys()
    assert "failed" not in statuses.values()
    shown = unwrapped(ended)
    assert "; conditional writes; " in shown
    assert re.search(r"expected time +about .+: \d+ steps of \d.*, 2 evaluations of \d.*, mining \d+ s", shown)
    assert "warning  contradictions        1 negatives are positives of the same anchor elsewhere" in shown
    assert "9 pairs from 9 rows, 0 rejected" in shown
    assert re.search(r"^ +8  to train on$", ended.stdout, flags=re.MULTILINE), "the audit as a page"
    assert re.search(r"^ +anchor tokens: median \d+, .* the longest \d+$", ended.stdout, flags=re.MULTILINE)
    assert "ready to train" in ended.last_line
    assert not objects(moto, f"s3://{BUCKET}/check-runs")
    assert {path.name for path in tmp_path.iterdir()} == {"pairs.jsonl", "faq.json"}


def test_node_0_checks_what_all_nodes_share_and_each_node_its_machine(mnrl_job, good):
    """No node waits for another: pods may start at different times."""
    nodes = {"MNRL_NUM_NODES": "1:2", "MNRL_MASTER_ADDR": "no-such-host.invalid", "MNRL_RUN_ID": "r"}
    first, second = (mnrl_job("check", **good | nodes | {"MNRL_NODE_RANK": rank}) for rank in ("0", "1"))
    assert (first.code, second.code) == (0, 0), first.stderr + second.stderr
    shared = {"output", "input pairs", "base model", "training pairs", "batches", "model", "expected time"}
    own = {"devices", "user", "caches", "disk"}
    assert table(first).keys() >= shared | own
    assert table(second).keys() >= own
    assert not table(second).keys() & shared
    assert "this is node 1, node 0 checks data, model and output" in unwrapped(second)
    missing = mnrl_job("check", **good | nodes | {"MNRL_NODE_RANK": "1", "MNRL_EVAL_DATA": "nowhere.json"})
    assert missing.code == 66, "its disk cannot be judged without"


FAILURES = {
    "a missing input": ({"MNRL_EVAL_DATA": "nowhere.json"}, "input nowhere", 66),
    "a missing model": ({"MNRL_BASE_MODEL": "./nowhere"}, "base model", 66),
    "a folder in a file": ({"MNRL_OUTPUT": "pairs.jsonl"}, "output", 64),
    "a bad row": ({"MNRL_TRAIN_DATA": "bad.jsonl"}, "data", 65),
    "a batch too large": ({"MNRL_BATCH_SIZE": "9"}, "batches", 64),
    "an unknown metric's eval set": ({"MNRL_PRIMARY_METRIC": "other.ndcg@10"}, "data", 64),
    "a precision this device has not": ({"MNRL_PRECISION": "fp16"}, "model", 78),
}


@pytest.mark.parametrize("case", FAILURES)
def test_each_fault_is_found_with_its_exit_code_and_a_remedy(mnrl_job, good, tmp_path, case):
    changes, failing, code = FAILURES[case]
    write_jsonl(tmp_path / "bad.jsonl", [{"anchor": PAIRS[0][0], "positive": PAIRS[0][1]}, {"anchor": "only"}])
    ended = mnrl_job("check", **good | changes)
    assert ended.code == code, ended.stderr + ended.stdout
    statuses = table(ended)
    assert statuses[failing] == "failed"
    assert list(statuses.values()).count("failed") == 1, "one fault, one failed check"
    assert re.search(r"failed .+\n +-> .+", unwrapped(ended)), "each failure has a remedy"
    assert "Traceback" not in ended.stderr


def test_a_work_folder_that_fills_up_during_the_check_ends_with_the_code_of_the_environment(
    mnrl_job, good, tmp_path, small_disk
):
    """Compressed text can be larger than any estimate."""
    rows = (json.dumps({"anchor": f"{i} how", "positive": f"{i} " + "so " * 100}) + "\n" for i in range(24_000))
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress("".join(rows).encode()))
    changes = {"MNRL_TRAIN_DATA": "packed.jsonl.gz", "MNRL_WORK_DIR": str(small_disk)}
    ended = mnrl_job("check", **good | changes)
    assert ended.code == 78, ended.stderr + ended.stdout
    assert "MNRL_WORK_DIR" in ended.last_line


def test_several_faults_are_found_at_once(mnrl_job, good):
    ended = mnrl_job("check", **good | {"MNRL_EVAL_DATA": "a.json,b.json", "MNRL_BASE_MODEL": "./c"})
    assert ended.code == 66
    assert [name for name, status in table(ended).items() if status == "failed"] == ["input a", "input b", "base model"]


def test_a_published_run_is_warned_of(mnrl_job, published, tmp_path):
    shutil.copytree(published.folder, tmp_path, dirs_exist_ok=True)
    ended = mnrl_job("check", **published.settings)
    assert ended.code == 0, ended.stderr
    assert table(ended)["output"] == "warning"
    assert "choose another MNRL_RUN_ID" in " ".join(ended.stdout.split())
    other = mnrl_job("check", **published.settings | {"MNRL_SEED": "1", "MNRL_EVAL_DATA": "nowhere.json"})
    assert other.code == 64
    assert table(other)["output"] == "failed"


def test_a_run_published_from_other_data_fails_the_check(published, tmp_path, monkeypatch):
    shutil.copytree(published.folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    settings, _ = read_settings("check", {}, published.settings, {})
    findings = Findings(lambda _: None)
    with start_attempt(settings) as attempt:
        check_output(settings, attempt, findings)
        with (tmp_path / "faq.json").open("a") as file:
            file.write("\n")
        check_output(settings, attempt, findings)
        manifest = json.loads((tmp_path / "out" / "r" / "manifest.json").read_text())
        del manifest["inputs_listing"]  # as an earlier version published it
        (tmp_path / "out" / "r" / "manifest.json").write_text(json.dumps(manifest))
        check_output(settings, attempt, findings)
    assert [(finding.status, finding.kind) for finding in findings.items] == [
        ("warning", ""),
        ("failed", "data"),
        ("warning", ""),
    ]
    assert "eval/faq: " in findings.items[1].detail


@pytest.mark.parametrize(("number", "seen"), [(signal.SIGINT, "batches"), (signal.SIGTERM, "output")])
def test_a_preempted_check_ends_at_once_without_a_failed_check(good, tmp_path, number, seen):
    with subprocess.Popen(
        command("check"),
        env=clean_environment(**good),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        while not re.match(rf"passed +{seen} ", line := running.stdout.readline()):
            assert line, running.stderr.read()
        running.send_signal(number)
        table_rows, log = running.communicate()
    assert running.returncode == 75, log
    assert "failed" not in table_rows
    assert f"stopped on request ({number.name})" in log.splitlines()[-1]
