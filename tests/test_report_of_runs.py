"""The page that real runs leave: of a training on harmful texts, and of an evaluation."""

import hashlib
import json

from tests.conftest import PAIRS, write_jsonl
from tests.outputs.left_behind import EVIL
from tests.outputs.test_report import Reader, data_of


def test_the_page_of_a_training_is_hashed_and_shows_harmful_pairs_and_queries_as_text(mnrl_job, good, tmp_path):
    rows = [{"anchor": f"{anchor} {EVIL}", "positive": f"{positive} {EVIL}"} for anchor, positive in PAIRS]
    write_jsonl(tmp_path / "pairs.jsonl", [*rows, rows[0]])
    content = json.loads((tmp_path / "faq.json").read_text())
    content["queries"]["q1"] = f"{EVIL} forgot my password"
    content["corpus"]["d1"] = f"{EVIL} new password"
    (tmp_path / "faq.json").write_text(json.dumps(content))
    ended = mnrl_job("train", **good | {"MNRL_BATCH_SIZE": "4", "MNRL_EPOCHS": "3"})
    assert ended.code == 0, ended.stderr
    run = tmp_path / "out" / "r"
    page = (run / "report.html").read_bytes()
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["files"]["report.html"]["sha256"] == hashlib.sha256(page).hexdigest()
    reader = Reader(page.decode())
    assert len(reader.attributes("script")) == 2
    assert not reader.attributes("img")
    assert f"pairs with markup Examples of pairs with markup anchor {PAIRS[0][0]} <script>window.stolen" in reader.text
    assert data_of(page.decode())["query"][0] == f"{EVIL} forgot my password"
    drawn = [attrs["aria-label"].partition(".")[0] for attrs in reader.attributes("svg") if "aria-label" in attrs]
    assert {"Loss", "In-batch accuracy", "Anisotropy", "Memory in use, in GB"} <= set(drawn)
    assert manifest["settings_sha256"] in reader.text
    assert all(digest in reader.text for digest in manifest["inputs"].values())


def test_an_evaluation_leaves_a_page_of_its_scores(mnrl_job, good, tmp_path):
    needed = ("MNRL_EVAL_DATA", "MNRL_BASE_MODEL", "MNRL_OUTPUT", "MNRL_RUN_ID")
    ended = mnrl_job("evaluate", **{name: good[name] for name in needed})
    assert ended.code == 0, ended.stderr
    page = (tmp_path / "out" / "r" / "report.html").read_text()
    assert "Scored: ndcg@10 is" in Reader(page).text
    assert data_of(page)["query"] == ["forgot my password", "get an invoice", "remove my profile"]
