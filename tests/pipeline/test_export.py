"""`mnrl-job export` on a published run: each format is published beside it, and the run stays as it is."""

import json
import re
import shutil

import numpy as np
import pytest

from mnrl_job.errors import SettingsError
from mnrl_job.pipeline import export as export_pipeline
from tests.program import ROOT
from tests.servers.s3 import BUCKET, objects


def read_files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(published, tmp_path):
    shutil.copy(published.folder / "faq.json", tmp_path)
    return shutil.copytree(published.run, tmp_path / "out" / "r")


def test_each_format_is_published_once_beside_the_run(mnrl_job, run):
    before = read_files(run)
    export = ("export", str(run), "--format", "int8", "--format", "onnx", "--eval-data", "faq.json")
    ended = mnrl_job(*export)
    assert ended.code == 0, ended.stderr
    assert read_files(run) == before
    onnx, int8 = (run.with_name("r.exports") / name for name in ("onnx", "int8"))
    after = json.loads((run / "metrics.json").read_text())["evaluation"]["faq"]["after"]["ndcg@10"]
    report = json.loads((onnx / "export.json").read_text())
    assert report["metrics"]["faq"]["ndcg@10"] == pytest.approx(after)
    assert report["delta"]["faq"]["ndcg@10"] == pytest.approx(0)
    assert report["bytes"] == sum((onnx / "model" / file).stat().st_size for file in report["files"])
    row = r"^int8 +\d.* [kM]B +[\d.]+ +[\d.]+ +[\d.]+  faq +0\.\d{4} +[-+]0\.\d{4}$"
    assert re.search(row, ended.stdout, re.MULTILINE)
    card = (onnx / "model" / "README.md").read_text()
    assert 'model = SentenceTransformer("path/to/this/folder", backend="onnx")' in card
    assert f"| faq | ndcg@10 | {after:.4f} | +0.0000 |" in card
    assert json.loads((onnx / "manifest.json").read_text())["run_id"] == "r"

    exports = read_files(onnx.parent)
    again = mnrl_job(*export)
    assert (again.code, again.stdout) == (0, ""), again.stderr
    assert again.stderr.count("is already published; nothing to do") == 2
    assert read_files(onnx.parent) == exports

    assert mnrl_job("verify", str(onnx)).code == 0
    weights = int8 / "model" / "onnx" / "model.onnx.data"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    damaged = mnrl_job("verify", str(int8))
    assert damaged.code == 65
    assert "model.onnx.data: has SHA-256" in damaged.stderr

    (snippet,) = re.findall(r"```python\n(import numpy.*?)```", (ROOT / "docs" / "exports.md").read_text(), re.DOTALL)
    names = {}
    exec(snippet.replace("runs/faq-7.exports/onnx/model", str(onnx / "model")), names)  # noqa: S102
    recorded = json.loads((run / "verification.json").read_text())
    assert names["texts"] == recorded["texts"][:2]
    assert np.abs(names["embeddings"] - np.array(recorded["embeddings"][:2])).max() < 1e-5


def test_a_run_on_s3_is_exported_beside_it_without_eval_data(mnrl_job, moto, published):
    prefix = "exports-of-a-run"
    moto.put(f"{prefix}/r", published.run)
    stale = "r.exports/openvino/model/of-an-attempt-that-was-killed"
    moto.client().put_object(Bucket=BUCKET, Key=f"{prefix}/{stale}", Body=b"")
    ended = mnrl_job("export", f"s3://{BUCKET}/{prefix}/r/", "--format", "openvino", **moto.environment)
    assert ended.code == 0, ended.stderr
    assert "the exports are compared with the model, but not scored" in ended.stderr
    keys = {key for key in objects(moto, f"s3://{BUCKET}/{prefix}") if not key.startswith("r/")}
    assert {f"r.exports/openvino/{name}" for name in ("_SUCCESS", "manifest.json", "export.json")} < keys
    assert "r.exports/openvino/model/openvino/openvino_model.xml" in keys
    assert stale not in keys
    assert all(key.startswith("r.exports/openvino/") for key in keys)


def test_a_damaged_or_missing_run_is_not_exported(mnrl_job, run):
    (run / "model" / "config.json").write_text("{}")
    damaged = mnrl_job("export", str(run), "--format", "onnx")
    assert (damaged.code, "model/config.json: has" in damaged.stderr) == (65, True)
    missing = mnrl_job("export", str(run / "nowhere"), "--format", "onnx")
    assert (missing.code, "nothing is there" in missing.last_line) == (66, True)
    assert not run.with_name("r.exports").exists()


def test_an_eval_set_that_differs_from_the_one_of_the_run_is_refused(mnrl_job, run, tmp_path):
    eval_set = json.loads((tmp_path / "faq.json").read_text())
    eval_set["queries"]["q1"] = "another question"
    (tmp_path / "faq.json").write_text(json.dumps(eval_set))
    ended = mnrl_job("export", str(run), "--format", "onnx", "--eval-data", "faq.json")
    assert ended.code == 65
    assert "MNRL_EVAL_DATA: faq differs from the eval set of that name in the run" in ended.last_line


def test_an_unknown_format_or_a_run_without_a_model_ends_with_the_settings_code(mnrl_job, good, tmp_path):
    unknown = mnrl_job("export", "out/r", "--format", "openvivo")
    assert (unknown.code, "'openvivo' is not one of 'onnx', 'openvino', 'int8'" in unknown.last_line) == (64, True)
    assert mnrl_job("evaluate", **good).code == 0
    without_model = mnrl_job("export", str(tmp_path / "out" / "r"), "--format", "onnx")
    assert without_model.code == 64
    assert "has no trained model to export" in without_model.last_line


def test_an_export_of_another_run_with_this_id_is_never_overwritten(mnrl_job, run):
    target = run.with_name("r.exports") / "onnx"
    target.mkdir(parents=True)
    (target / "_SUCCESS").write_text("{}")
    (target / "manifest.json").write_text(json.dumps({"settings_sha256": "of another run", "files": {}}))
    ended = mnrl_job("export", str(run), "--format", "onnx")
    assert ended.code == 64
    assert "was exported from another run that had this id" in ended.last_line


def test_a_package_that_is_not_installed_is_reported_before_anything_is_read(monkeypatch):
    monkeypatch.setitem(export_pipeline.PACKAGES, "onnx", ("onnx", "not_installed"))
    with pytest.raises(SettingsError, match="--format onnx needs not_installed; run `make install-export`"):
        export_pipeline.check_packages(("openvino", "onnx"))
