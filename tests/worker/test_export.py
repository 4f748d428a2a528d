"""Exports of a saved model: they give its embeddings and its rankings; one that does not is refused."""

import json
import re
import shutil

import pytest
import torch

from mnrl_job.config.setting_types import METRIC_CUTOFFS
from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalData, write_evalset
from mnrl_job.errors import InternalError, SettingsError
from mnrl_job.evaluation.results import read_results
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.worker import export as worker_export
from mnrl_job.worker.export import export, find_transformer, load
from mnrl_job.worker.verify import record_probes
from tests.embedding.folders import FAMILIES, of_family
from tests.examples import PAIRS

QUERY, DOCUMENT = "export all ", "the data page "
LONG = " ".join(text for pair in PAIRS for text in pair)
# No number of an embedding is above 1, each of two layers rounds anew, and a sum has up to 64 numbers.
FP32 = 2 * 64 * 2.0**-23


def save_run(model, folder):
    """What `export` needs of a published run: the model, and the embeddings it gave when it was trained."""
    folder.mkdir()
    record_probes(model, folder / "verification.json")
    model.save_pretrained(str(folder / "model"), create_model_card=False)


def task_in(folder, eval_sets=()):
    return WorkerTask(Settings(), "", folder, folder / "run", eval_sets, {})


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_model):
    """The folder, the model with its own evaluation, and the exports of a model with prompts that reads 12 tokens."""
    from sentence_transformers import SentenceTransformer

    from mnrl_job.worker.retrieval import EvaluationOptions, evaluate

    folder = tmp_path_factory.mktemp("exported")
    model = SentenceTransformer(str(tiny_model), device="cpu")
    model.prompts.update(query=QUERY, document=DOCUMENT)
    model.max_seq_length = 12
    save_run(model, folder / "run")
    queries = {f"q{i}": anchor for i, (anchor, _) in enumerate(PAIRS)}
    corpus = {f"d{i}": positive for i, (_, positive) in enumerate(PAIRS)}
    relevances = {(f"q{i}", f"d{i}"): 1 for i in range(len(PAIRS))}
    eval_set = write_evalset("faq", "", folder / "faq", EvalData(queries, corpus, relevances))
    evaluation = evaluate(model, eval_set, EvaluationOptions("fp32", METRIC_CUTOFFS), folder / "own.jsonl")
    exports = {name: export(name, task_in(folder, (eval_set,))) for name in ("onnx", "openvino", "int8")}
    return folder, model, evaluation, exports


@pytest.mark.parametrize(
    ("name", "graph"),
    [
        ("onnx", {"onnx/model.onnx", "onnx/model.onnx.data"}),
        ("int8", {"onnx/model.onnx", "onnx/model.onnx.data"}),
        ("openvino", {"openvino/openvino_model.bin", "openvino/openvino_model.xml"}),
    ],
)
def test_an_export_is_the_model_folder_with_the_graph_in_place_of_the_weights(exported, name, graph):
    folder, _, _, exports = exported
    run, model = folder / "run" / "model", folder / name / "model"
    files = {path.relative_to(model).as_posix(): path for path in model.rglob("*") if path.is_file()}
    published = {path.relative_to(run).as_posix(): path for path in run.rglob("*") if path.is_file()}
    assert graph < exports[name].files.keys()
    assert {file: files[file].stat().st_size for file in exports[name].files} == exports[name].files
    assert files.keys() - exports[name].files.keys() == published.keys() - {"model.safetensors"}
    assert all(files[file].read_bytes() == published[file].read_bytes() for file in files.keys() & published.keys())


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_fp32_formats_give_the_rankings_of_the_trained_model(exported, name):
    folder, _, evaluation, exports = exported
    result = exports[name]
    assert result.max_difference < FP32
    assert result.min_cosine == pytest.approx(1, abs=FP32)
    (scored,) = result.evaluations
    assert scored.metrics == pytest.approx(evaluation.metrics)
    ranked, expected = read_results(folder / f"{name}-faq.jsonl"), read_results(folder / "own.jsonl")
    assert [(query.query_id, query.rank) for query in ranked] == [(query.query_id, query.rank) for query in expected]


def test_the_difference_of_int8_is_reported_without_a_limit(exported):
    _, _, evaluation, exports = exported
    int8 = exports["int8"]
    assert int8.tolerance is None
    assert 1e-4 < int8.max_difference < 0.5
    assert 0.9 < int8.min_cosine < 0.99999
    assert int8.evaluations[0].metrics.keys() == evaluation.metrics.keys()
    assert int8.files["onnx/model.onnx.data"] < 0.5 * exports["onnx"].files["onnx/model.onnx.data"]
    assert {"transformers", "torch", "onnx", "onnxscript", "onnxruntime"} <= int8.packages.keys()
    assert int8.seconds_per_text > 0
    assert int8.pytorch_seconds_per_text > 0


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_batches_of_other_sizes_and_lengths_than_it_was_traced_with_give_the_same_embeddings(exported, name):
    from sentence_transformers import SentenceTransformer

    folder, model, _, exports = exported
    backend = exports[name].backend
    other = SentenceTransformer(str(folder / "run" / "model"), device="cpu")
    other[0].model = load(folder / name / "model" / backend, backend, other[0].model.config)
    for texts in ([PAIRS[0][0]], [LONG], ["", LONG, PAIRS[1][0]], [text for pair in PAIRS for text in pair]):
        for side in ("encode_query", "encode_document"):
            expected = getattr(model, side)(texts, convert_to_tensor=True)
            assert (getattr(other, side)(texts, convert_to_tensor=True) - expected).abs().max() < FP32


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("qwen3", "onnx"),
        *(
            pytest.param(family, name, marks=pytest.mark.slow)
            for family in FAMILIES
            for name in ("onnx", "openvino", "int8")
            if (family, name) not in {("qwen3", "onnx"), ("bert", "onnx")}
        ),
    ],
)
def test_models_of_each_family_can_be_exported(family, name, tiny_model, tmp_path):
    torch.manual_seed(0)
    model = of_family(family, tiny_model, tmp_path / "backbone")
    save_run(model, tmp_path / "run")
    result = export(name, task_in(tmp_path))
    assert result.max_difference < (0.5 if name == "int8" else FP32)


def test_an_export_that_gives_other_embeddings_is_refused_with_the_difference(exported, tmp_path, monkeypatch):
    def copy_graph(_name, _model, target):
        shutil.copytree(exported[0] / "onnx" / "model" / "onnx", target)
        return {}

    monkeypatch.setattr(worker_export, "write", copy_graph)
    shutil.copytree(exported[0] / "run", tmp_path / "run")
    config = tmp_path / "run" / "model" / "config_sentence_transformers.json"
    prompts = {"prompts": {"query": "another ", "document": DOCUMENT}}
    config.write_text(json.dumps(json.loads(config.read_text()) | prompts))
    with pytest.raises(InternalError, match=r"exported to onnx does not give the embeddings .* differ by 0\.\d+"):
        export("onnx", task_in(tmp_path))


def test_a_model_that_the_exporter_does_not_support_is_refused_with_what_to_do(exported, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no such operator\nand a long explanation")

    shutil.copytree(exported[0] / "run", tmp_path / "run")
    monkeypatch.setattr(worker_export, "convert", fail)
    with pytest.raises(SettingsError) as raised:
        export("int8", task_in(tmp_path))
    assert re.search(
        r"cannot export this BertModel to int8: no such operator; leave out --format int8$", str(raised.value)
    )


def test_a_model_without_a_transformer_is_refused(static_model):
    with pytest.raises(SettingsError, match="only models with one transformer can be exported, and this one has 0"):
        find_transformer(static_model)
