"""A published model in other formats, by the exporters of transformers: reloaded, compared and scored on the CPU."""

import importlib.metadata
import logging
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from timeit import repeat
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from transformers import PreTrainedModel
from transformers.exporters.base import ExportedModel
from transformers.exporters.configs import OnnxConfig, OpenVINOConfig
from transformers.exporters.exporter_onnx import OnnxExporter
from transformers.exporters.exporter_openvino import OpenVINOExporter
from transformers.exporters.quantizers.quantizer_onnxruntime import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

from mnrl_job.config.setting_types import ExportFormat
from mnrl_job.data.tables import read_table
from mnrl_job.errors import InternalError, SettingsError, first_line
from mnrl_job.evaluation.results import Evaluation
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system.heartbeat import enter_phase
from mnrl_job.system.logs import log
from mnrl_job.system.phases import Phase
from mnrl_job.system.quantities import file_size
from mnrl_job.worker.results import Export
from mnrl_job.worker.retrieval import EvaluationOptions, evaluate
from mnrl_job.worker.verify import PROBES, embed_probes, recorded_probes

# By Sentence Transformers' name, which is also the folder where it looks for the graph.
Backend = Literal["onnx", "openvino"]
BACKENDS: dict[ExportFormat, Backend] = {"onnx": "onnx", "openvino": "openvino", "int8": "onnx"}
RUNTIMES: dict[Backend, str] = {"onnx": "onnxruntime", "openvino": "openvino"}
# Other kernels add in another order: 2e-7 for a small model, more for deep ones. Wrong positions, a missing prompt or
# another tokenizer differ by 1e-2 and more. None where a format is expected to differ.
TOLERANCES: dict[ExportFormat, float | None] = {"onnx": 1e-3, "openvino": 1e-3, "int8": None}
# Of different lengths, so that the shorter is padded and the attention mask is part of the graph.
SAMPLE_TEXTS = PROBES[:2]
TIMED_TEXTS = 64
TIMED_ROUNDS = 3


class ExportedBackbone(torch.nn.Module):
    """Computes token embeddings with an exported graph, in place of a PyTorch transformer."""

    def __init__(self, exported: ExportedModel, config: Any) -> None:
        super().__init__()
        self.exported = exported
        self.config = config

    def forward(self, **inputs: Any) -> Any:
        return self.exported(share_inputs=True, share_outputs=False, **_tensors(inputs))


def export(name: ExportFormat, task: WorkerTask) -> Export:
    """Export the run in `task.staging` to the folder `NAME/model` of the scratch, then load, compare and score it.

    Raises:
        SettingsError: the exporter does not support this model.
        InternalError: the export cannot be used, or its embeddings differ from those of the trained model.
    """
    started = time.perf_counter()
    enter_phase(Phase.EXPORT)
    source, folder, backend = task.staging / "model", task.scratch / name / "model", BACKENDS[name]
    model = SentenceTransformer(str(source), device="cpu").eval()
    transformer: Any = find_transformer(model)
    texts = timed_texts(task)
    pytorch_seconds = seconds_per_text(model, texts)
    copy_without_weights(source, folder)
    packages = write(name, model, folder / backend)
    try:
        transformer.model = load(folder / backend, backend, transformer.model.config)
        embeddings = embed_probes(model)
        seconds = seconds_per_text(model, texts)
    except Exception as error:
        raise InternalError(f"the model was exported to {name}, but cannot be used: {first_line(error)}") from error
    expected = recorded_probes(task.staging / "verification.json")
    difference = compare(name, embeddings, expected)
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted((folder / backend).iterdir())}
    result = Export(
        format=name,
        backend=backend,
        files=files,
        evaluations=score(name, model, task),
        max_difference=difference,
        tolerance=TOLERANCES[name],
        min_cosine=float((embeddings * expected).sum(dim=1).min()),
        seconds_per_text=seconds,
        pytorch_seconds_per_text=pytorch_seconds,
        packages=packages | {RUNTIMES[backend]: importlib.metadata.version(RUNTIMES[backend])},
    )
    log(f"exported to {name}: {file_size(sum(files.values()))}", seconds=time.perf_counter() - started)
    return result


def find_transformer(model: SentenceTransformer) -> Transformer:
    """The module that is exported; the others (pooling, …) stay with Sentence Transformers.

    Raises:
        SettingsError: there is none, as in a static embedding model, or more than one.
    """
    transformers: list[Transformer] = [module for module in model.modules() if isinstance(module, Transformer)]
    if len(transformers) != 1:
        raise SettingsError(
            f"only models with one transformer can be exported, and this one has {len(transformers)}; use the run's "
            "model as it is"
        )
    return transformers[0]


def write(name: ExportFormat, model: SentenceTransformer, folder: Path) -> dict[str, str]:
    """Export the transformer of the model with dynamic batch and sequence axes.

    Returns:
        The version of each package it was exported with.

    Raises:
        SettingsError: the exporter does not support this model.
    """
    backbone = find_transformer(model).model
    inputs = backbone_inputs(model, backbone)
    try:
        with quiet():
            exported = convert(name, backbone, inputs)
            exported.save_pretrained(folder)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise SettingsError(
            f"transformers cannot export this {type(backbone).__name__} to {name}: {first_line(error)}; leave out "
            f"--format {name}"
        ) from error
    packages: dict[str, str] = exported.components["model"].metadata.packages
    return packages


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the exporters' progress, and their warnings about versions that they were not tested with."""
    loggers = [logging.getLogger(name) for name in ("transformers", "torch.onnx", "root")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def backbone_inputs(model: SentenceTransformer, backbone: Any) -> dict[str, Any]:
    """The tensors that the model passes to its backbone for a batch of texts."""
    calls: list[dict[str, Any]] = []
    forward = backbone.forward

    def record(**inputs: Any) -> Any:
        calls.append(_tensors(inputs))
        return forward(**inputs)

    backbone.forward = record  # a hook would see nothing: the library calls `forward` itself
    model.encode(list(SAMPLE_TEXTS))
    del backbone.forward
    return calls[0]


def convert(name: ExportFormat, backbone: PreTrainedModel, inputs: dict[str, Any]) -> ExportedModel:
    if name == "openvino":
        return OpenVINOExporter().export(backbone, inputs, OpenVINOConfig(dynamic=True))
    config = OnnxConfig(dynamic=True)
    if name == "int8":
        from onnxruntime.quantization import QuantType

        # As optimum quantizes for AVX2; processors without VNNI overflow with signed weights.
        dynamic = OnnxRuntimeDynamicConfig(
            weight_type=QuantType.QUInt8, per_channel=True, extra_options={"WeightSymmetric": True}
        )
        config.quantizer = OnnxRuntimeQuantizer(dynamic)
    return OnnxExporter().export(backbone, inputs, config)


def load(folder: Path, backend: Backend, config: Any) -> ExportedBackbone:
    """Load an exported graph on the CPU, in fp32 and with as many threads as torch.

    By default OpenVINO multiplies in bf16 where the processor can (AVX512_BF16, AMX).
    """
    options: dict[str, Any] = {
        "config": {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    }
    if backend == "onnx":
        import onnxruntime

        options = {"session_options": onnxruntime.SessionOptions()}
        options["session_options"].intra_op_num_threads = torch.get_num_threads()
    return ExportedBackbone(ExportedModel.from_pretrained(folder, device="cpu", **options), config)


def copy_without_weights(source: Path, folder: Path) -> None:
    """Copy the model folder without the weights of the transformer, which are at its top level."""

    def weights(parent: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(parent) == source and name.startswith("model") and "safetensors" in name]

    shutil.copytree(source, folder, ignore=weights)


def compare(name: ExportFormat, embeddings: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference in any number of the fixed texts' embeddings, both shape (texts, dimension).

    Raises:
        InternalError: it is above the tolerance of this format.
    """
    if embeddings.shape != expected.shape:
        raise InternalError(
            f"the model exported to {name} gives embeddings of shape {tuple(embeddings.shape)}, not "
            f"{tuple(expected.shape)}"
        )
    difference, tolerance = float((embeddings - expected).abs().max()), TOLERANCES[name]
    if tolerance is not None and not difference <= tolerance:
        raise InternalError(
            f"the model exported to {name} does not give the embeddings of the trained model: they differ by "
            f"{difference:.2g}, rounding explains {tolerance:g}; leave out --format {name}"
        )
    return difference


def score(name: ExportFormat, model: SentenceTransformer, task: WorkerTask) -> tuple[Evaluation, ...]:
    """Evaluate on every eval set, in fp32."""
    _, metric = task.settings.primary_eval
    options = EvaluationOptions("fp32", task.settings.metric_cutoffs)
    evaluations = []
    for eval_set in task.eval_sets:
        enter_phase(Phase.EVALUATE_EXPORT)
        results = task.scratch / f"{name}-{eval_set.name}.jsonl"
        evaluation = evaluate(model, eval_set, options, results)
        log(f"{name}, {eval_set.name}: {metric} {evaluation.metrics[metric]:.4f}", seconds=evaluation.seconds)
        evaluations.append(evaluation)
    return tuple(evaluations)


def seconds_per_text(model: SentenceTransformer, texts: list[str]) -> float:
    """The fastest of a few rounds, since other processes may use the CPU."""
    model.encode_document(texts[:1])
    return min(repeat(partial(model.encode_document, texts), number=1, repeat=TIMED_ROUNDS)) / len(texts)


def timed_texts(task: WorkerTask) -> list[str]:
    """Documents of the first eval set; the fixed texts where there is none."""
    if not task.eval_sets:
        return list(PROBES)
    documents = read_table(task.eval_sets[0].folder / "corpus.arrow")["text"]
    texts: list[str] = documents.slice(0, TIMED_TEXTS).to_pylist()
    return texts


def _tensors(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
