"""Other formats of the trained model: they load by the library and rank as it does; what differs is refused."""

import hashlib
import json
import re
import subprocess

import numpy as np
import pytest

from mnrl_job.config.setting_types import METRIC_CUTOFFS
from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalData, write_evalset
from mnrl_job.errors import InternalError, SettingsError
from mnrl_job.evaluation.results import read_results
from mnrl_job.launch.exporters import LOADING, python_of
from mnrl_job.launch.watchdog import WorkerTimeouts
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.launch.workers import run_workers
from mnrl_job.system.devices import Devices
from mnrl_job.system.record_files import write_record
from mnrl_job.worker.export import check_exportable
from mnrl_job.worker.results import Exports
from mnrl_job.worker.verify import record_probes
from tests.examples import PAIRS, read_metrics
from tests.program import clean_environment

QUERY, DOCUMENT = "export all ", "the data page "
LONG = " ".join(text for pair in PAIRS for text in pair)
# How far apart two kernels may be: no number of an embedding is above 1, and each of two layers rounds anew. In fp32
# the order of a sum is theirs, of up to 64 numbers; in bf16 what is multiplied is rounded, and summed in fp32.
LAYERS, LONGEST_SUM = 2, 64
FP32 = LAYERS * LONGEST_SUM * 2.0**-23
BF16 = LAYERS * 2.0**-8
LOADED = {
    "onnx": ("onnx", dict(LOADING["onnx"]), FP32),
    "openvino": ("openvino", dict(LOADING["openvino"]), FP32),
    "openvino in what this processor multiplies fastest": ("openvino", {}, BF16),
    "int8": ("onnx", {"file_name": "onnx/model_quint8_avx2.onnx"}, 0.2),
}
# What a user does with exported models, in the environment that can load them.
USE = """
import sys, json
from sentence_transformers import SentenceTransformer
texts, found = json.loads(sys.argv[2]), []
for backend, options, _ in json.loads(sys.argv[3]):
    model = SentenceTransformer(sys.argv[1], backend=backend, device="cpu", model_kwargs=options)
    sides = model.encode_query(texts).tolist(), model.encode_document(texts).tolist()
    found.append((model.max_seq_length, *sides))
print(json.dumps(found))
"""

# What a worker does, for several tasks.
REFUSE = """
import json, sys
from pathlib import Path
from mnrl_job.errors import JobError
from mnrl_job.worker.export import export
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system.record_files import read_record
found = []
for path in sys.argv[1:]:
    try:
        export("onnx", read_record(Path(path), WorkerTask))
    except JobError as error:
        found.append((error.kind, str(error)))
print(json.dumps(found))
"""


def task_in(folder, formats, eval_sets=()):
    return WorkerTask(Settings(export=formats), "", folder, folder / "run", eval_sets, {})


def export(folder, formats, eval_sets=()):
    task = task_in(folder, formats, eval_sets)
    return run_workers(
        "export", task, Devices(gpus=(), workers=1), WorkerTimeouts(120, 30), "exports.json", Exports
    ).exports


def prepared(folder, tiny_model):
    """A trained model as a run has it, with prompts, and texts cut at 12 tokens."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_model), device="cpu")
    model.prompts.update(query=QUERY, document=DOCUMENT)
    model.max_seq_length = 12
    (folder / "run").mkdir()
    record_probes(model, folder / "run" / "verification.json")
    model.save_pretrained(str(folder / "run" / "model"), create_model_card=False)
    return model


def hashes(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_model):
    """The folder, the model, its files' hashes before, its own results, and the exports by format."""
    from mnrl_job.worker.retrieval import EvaluationOptions, evaluate

    folder = tmp_path_factory.mktemp("exported")
    model = prepared(folder, tiny_model)
    before = hashes(folder / "run" / "model")
    queries = {f"q{i}": anchor for i, (anchor, _) in enumerate(PAIRS)}
    corpus = {f"d{i}": positive for i, (_, positive) in enumerate(PAIRS)}
    grades = {(f"q{i}", f"d{i}"): 1 for i in range(len(PAIRS))}
    eval_set = write_evalset("faq", "", folder / "faq", EvalData(queries, corpus, grades))
    own = evaluate(model, eval_set, EvaluationOptions("fp32", METRIC_CUTOFFS), folder / "own.jsonl")
    exports = export(folder, ("onnx", "openvino", "int8"), (eval_set,))
    return folder, model, before, own, {one.format: one for one in exports}


def test_each_format_is_a_file_beside_the_weights_and_nothing_else_in_the_model_is_touched(exported):
    folder, _, before, _, exports = exported
    assert {name: sorted(one.files) for name, one in exports.items()} == {
        "onnx": ["onnx/model.onnx"],
        "openvino": ["openvino/openvino_model.bin", "openvino/openvino_model.xml"],
        "int8": ["onnx/model_quint8_avx2.onnx"],
    }
    model = folder / "run" / "model"
    for one in exports.values():
        assert all((model / file).stat().st_size == size for file, size in one.files.items())
    after = hashes(model)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 4
    assert sum(exports["int8"].files.values()) < sum(exports["onnx"].files.values())


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_formats_of_32_bits_rank_as_the_trained_model_does(exported, name):
    folder, _, _, own, exports = exported
    one = exports[name]
    assert one.max_difference < FP32
    assert one.min_cosine == pytest.approx(1, abs=FP32)
    (scored,) = one.evaluations
    assert scored.metrics == pytest.approx(own.metrics)
    theirs, ours = read_results(folder / f"{name}-faq.jsonl"), read_results(folder / "own.jsonl")
    assert [(a.query_id, a.rank) for a in theirs] == [(b.query_id, b.rank) for b in ours]


def test_eight_bits_are_told_apart_and_how_far_off_they_are(exported):
    one = exported[-1]["int8"]
    assert one.tolerance is None
    assert 1e-4 < one.max_difference < 0.5
    assert 0.9 < one.min_cosine < 0.99999
    assert one.evaluations[0].metrics.keys() == exported[3].metrics.keys()
    assert one.packages["onnxruntime"]
    assert one.seconds_per_text > 0
    assert one.pytorch_seconds_per_text > 0


def test_the_folder_loads_by_the_library_with_prompts_and_length(exported):
    folder, model, *_ = exported
    texts = [PAIRS[0][0], LONG]
    told = [json.dumps(texts), json.dumps(list(LOADED.values()))]
    command = [python_of("export"), "-c", USE, str(folder / "run" / "model"), *told]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for (tokens, queries, documents), (_, _, allowed) in zip(found, LOADED.values(), strict=True):
        assert tokens == 12
        assert np.abs(np.array(queries) - model.encode_query(texts)).max() < allowed
        assert np.abs(np.array(documents) - model.encode_document(texts)).max() < allowed


@pytest.fixture(scope="module")
def refused(tmp_path_factory, tiny_model):
    """Two models that cannot be exported, one for its other prompt, one for its kind, and how each was refused."""
    changes = {
        "prompt": ("config_sentence_transformers.json", {"prompts": {"query": "another ", "document": DOCUMENT}}),
        "kind": ("config.json", {"model_type": "rwkv"}),
    }
    tasks, folders = [], {}
    for name, (file, change) in changes.items():
        folder = folders[name] = tmp_path_factory.mktemp(name)
        prepared(folder, tiny_model)
        path = folder / "run" / "model" / file
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        write_record(folder / "task.json", task_in(folder, ("onnx",)))
        tasks.append(str(folder / "task.json"))
    done = subprocess.run(
        [python_of("export"), "-c", REFUSE, *tasks], env=clean_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folders, dict(zip(changes, json.loads(done.stdout.splitlines()[-1]), strict=True))


def test_a_format_that_gives_other_embeddings_is_refused_and_told_by_how_much(refused):
    kind, message = refused[1]["prompt"]
    assert kind == InternalError.kind
    assert re.search(r"onnx/model.onnx does not give the embeddings .* differ by 0\.\d+.*leave", message)


def test_a_model_the_library_cannot_export_is_refused_with_what_to_do(refused):
    folders, told = refused
    kind, message = told["kind"]
    assert kind == SettingsError.kind
    assert re.search(r"MNRL_EXPORT=onnx: the library cannot export this model: .*leave onnx out", message)
    assert not (folders["kind"] / "run" / "model" / "onnx").exists()


def test_a_model_that_is_no_transformer_is_refused_before_training(static_model):
    check_exportable(static_model, ())
    with pytest.raises(SettingsError, match=r"^MNRL_EXPORT=onnx: "):
        check_exportable(static_model, ("onnx",))


def test_a_run_publishes_each_format_with_its_line_and_verify_looks_at_it(mnrl_job, good, tmp_path):
    ended = mnrl_job("train", **good, MNRL_EXPORT="openvino,int8,onnx")
    assert ended.code == 0, ended.stderr
    run = tmp_path / "out" / "r"
    metrics = read_metrics(run)
    assert list(metrics["exports"]) == ["onnx", "openvino", "int8"]
    own = metrics["evaluation"]["faq"]["after"]["ndcg@10"]
    for name, one in metrics["exports"].items():
        score = one["metrics"]["faq"]["ndcg@10"]
        assert f"  {name:<14}{score:>16.4f}{score - own:>+9.4f}" in ended.stdout
        assert one["bytes"] == sum((run / "model" / file).stat().st_size for file in one["files"])
    manifest = json.loads((run / "manifest.json").read_text())["files"]
    assert {f"model/{file}" for one in metrics["exports"].values() for file in one["files"]} < manifest.keys()
    card = (run / "model" / "README.md").read_text()
    assert 'backend="onnx", model_kwargs={"file_name": "onnx/model_quint8_avx2.onnx"}' in card
    assert re.search(r'backend="openvino".*"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}', card)
    assert "exported as openvino" in (run / "report.html").read_text()
    assert metrics["performance"]["seconds"]["export"] > 0
    weights = run / "model" / "openvino" / "openvino_model.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    damaged = mnrl_job("verify", str(run))
    assert damaged.code == 65
    assert "openvino_model.bin" in damaged.stderr
