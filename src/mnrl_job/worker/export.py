"""The trained model in other formats, by the library's own exporters: each reloaded, compared and scored.

This runs in the Python of the exporters (`launch/exporters.py`), whose transformers is another than trained the
model. So nothing is taken for granted: each format is held against what the trained model itself gave.
"""

import importlib.metadata
import logging
import shutil
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

from mnrl_job.config.setting_types import ExportFormat
from mnrl_job.data.tables import read_table
from mnrl_job.errors import InternalError, SettingsError
from mnrl_job.evaluation.results import Evaluation
from mnrl_job.launch.exporters import LOADING
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system.heartbeat import enter_phase
from mnrl_job.system.logs import log, warn
from mnrl_job.system.phases import Phase
from mnrl_job.worker.results import Export
from mnrl_job.worker.retrieval import EvaluationOptions, evaluate
from mnrl_job.worker.verify import PROBES, embed_probes, recorded_probes

# Other kernels, often on another device, add in another order: 2e-7 for a small model, more for deep ones. Wrong
# positions, a lost prompt or another tokenizer are off by 1e-2 and more.
TOLERANCE = 1e-3
# The 8-bit format for processors with AVX2; others read it, too.
INT8 = "avx2"
INSTEAD = "leave {} out of MNRL_EXPORT, and the same MNRL_RUN_ID goes on from its last checkpoint"
TIMED_TEXTS = 64
TIMED_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Format:
    """How the library writes a format and reads it: its `file` below the model folder; others begin like it."""

    backend: Literal["onnx", "openvino"]
    file: str
    packages: tuple[str, ...]
    options: dict[str, Any]
    tolerance: float | None = TOLERANCE
    export_options: dict[str, Any] = field(default_factory=dict)


ON_CPU = {"provider": "CPUExecutionProvider"}
ONNX = ("optimum-onnx", "onnxruntime", "onnx", "transformers")
FORMATS: dict[ExportFormat, Format] = {
    "onnx": Format("onnx", "onnx/model.onnx", ONNX, ON_CPU),
    "openvino": Format(
        "openvino",
        "openvino/openvino_model.xml",
        ("optimum-intel", "openvino", "transformers"),
        dict(LOADING["openvino"]),
        export_options={"load_in_8bit": False},  # as large models would be
    ),
    "int8": Format("onnx", f"onnx/model_quint8_{INT8}.onnx", ONNX, ON_CPU, tolerance=None),
}


def check_exportable(model: SentenceTransformer, formats: tuple[ExportFormat, ...]) -> None:
    """Only a transformer can be exported.

    Raises:
        SettingsError: the model is none.
    """
    if formats and model.transformers_model is None:
        raise SettingsError(
            f"MNRL_EXPORT={','.join(formats)}: only transformers can be exported, and this model is none; leave it out"
        )


def export(name: ExportFormat, task: WorkerTask) -> Export:
    """Write the saved model in this format beside its weights, load that, compare and score it on the CPU.

    Raises:
        SettingsError: the library cannot export this model.
        InternalError: what it wrote cannot be loaded, or gives other embeddings than the trained model gave.
    """
    began = time.perf_counter()
    folder, wanted = task.staging / "model", FORMATS[name]
    enter_phase(Phase.EXPORT)
    with TemporaryDirectory(dir=task.scratch) as scratch:
        files = write(name, folder, Path(scratch))
    try:
        model = load(folder, wanted)
        found = embed_probes(model)
    except Exception as error:
        raise InternalError(
            f"{wanted.file} was written, but cannot be used: {_first_line(error)}; {INSTEAD.format(name)}"
        ) from error
    expected = recorded_probes(task.staging / "verification.json")
    difference = compare(found, expected, wanted)
    sample = _sample(task)
    done = Export(
        format=name,
        backend=wanted.backend,
        files=files,
        evaluations=score(name, model, task),
        max_difference=difference,
        tolerance=wanted.tolerance,
        min_cosine=float((found * expected).sum(dim=1).min()),
        seconds_per_text=seconds_per_text(model, sample),
        pytorch_seconds_per_text=_pytorch_seconds(folder, sample),
        packages={package: importlib.metadata.version(package) for package in wanted.packages},
    )
    log(f"exported {wanted.file}: {sum(files.values()) / 1e6:.1f} MB", seconds=time.perf_counter() - began)
    return done


def write(name: ExportFormat, folder: Path, scratch: Path) -> dict[str, int]:
    """Export in the scratch and move just the files of this format into the model folder.

    The library saves configuration and tokenizer, too; those of its older transformers must not replace ours.

    Returns:
        The bytes of each file, by its place in the model folder.

    Raises:
        SettingsError: the library cannot.
    """
    wanted = FORMATS[name]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing, and of how the result should be saved, as it is
            model = load(folder, wanted, export=True, **wanted.export_options)
            model.save_pretrained(str(scratch), create_model_card=False)
            if name == "int8":
                export_dynamic_quantized_onnx_model(model, INT8, str(scratch))
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise SettingsError(
            f"MNRL_EXPORT={name}: the library cannot export this model: {_first_line(error)}; {INSTEAD.format(name)}"
        ) from error
    place = folder / wanted.backend
    place.mkdir(exist_ok=True)
    stem = Path(wanted.file).name.removesuffix(".xml")
    files = sorted(path for path in (scratch / wanted.backend).iterdir() if path.name.startswith(stem))
    for path in files:
        shutil.move(path, place / path.name)
    return {f"{wanted.backend}/{path.name}": (place / path.name).stat().st_size for path in files}


def load(folder: Path, wanted: Format, **options: Any) -> SentenceTransformer:
    """As a user loads it, on the CPU; with `export`, the library makes it from the weights."""
    for library in ("sentence_transformers", "transformers", "optimum"):
        logging.getLogger(library).setLevel(logging.ERROR)  # they advise what is done already
    options = wanted.options | ({} if "export" in options else {"file_name": wanted.file}) | options
    return SentenceTransformer(str(folder), backend=wanted.backend, device="cpu", model_kwargs=options)


def compare(found: torch.Tensor, expected: torch.Tensor, wanted: Format) -> float:
    """The largest difference in any number of the fixed texts' embeddings, both shape (texts, dimension).

    Raises:
        InternalError: it is more than this format explains.
    """
    if found.shape != expected.shape:
        raise InternalError(
            f"{wanted.file} gives embeddings of shape {tuple(found.shape)}, not {tuple(expected.shape)}"
        )
    difference = float((found - expected).abs().max())
    if wanted.tolerance is not None and not difference <= wanted.tolerance:
        raise InternalError(
            f"{wanted.file} does not give the embeddings of the trained model: they differ by {difference:.2g}, "
            f"rounding explains {wanted.tolerance:g}; {INSTEAD.format('it')}"
        )
    return difference


def score(name: ExportFormat, model: SentenceTransformer, task: WorkerTask) -> tuple[Evaluation, ...]:
    """On every eval set, as the trained model was scored, but with the tokens of this environment's tokenizer."""
    _, metric = task.settings.primary_eval
    evaluations = []
    for eval_set in task.eval_sets:
        enter_phase(Phase.EVALUATE_EXPORT)
        results = task.scratch / f"{name}-{eval_set.name}.jsonl"
        tokens = task.scratch / "export-tokens" / eval_set.name
        done = evaluate(model, eval_set, EvaluationOptions("fp32", task.settings.metric_cutoffs), results, tokens)
        log(f"as {name}, {eval_set.name}: {metric} {done.metrics[metric]:.4f}", seconds=done.seconds)
        evaluations.append(done)
    return tuple(evaluations)


def seconds_per_text(model: SentenceTransformer, texts: list[str]) -> float:
    """The best of a few rounds, since the machine may be busy with other things."""
    model.encode_document(texts[:1])
    seconds = []
    for _ in range(TIMED_ROUNDS):
        began = time.perf_counter()
        model.encode_document(texts)
        seconds.append(time.perf_counter() - began)
    return min(seconds) / len(texts)


def _pytorch_seconds(folder: Path, texts: list[str]) -> float | None:
    try:
        return seconds_per_text(SentenceTransformer(str(folder), device="cpu"), texts)
    except Exception as error:  # this transformers may not read all that ours writes; the export was compared before
        warn(f"there is no time of PyTorch to compare with: {_first_line(error)}")
        return None


def _sample(task: WorkerTask) -> list[str]:
    """Documents of the first eval set; the fixed texts where there is none."""
    if not task.eval_sets:
        return list(PROBES)
    texts = read_table(task.eval_sets[0].folder / "corpus.arrow")["text"]
    sample: list[str] = texts.slice(0, TIMED_TEXTS).to_pylist()
    return sample


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no word'])[0]}"
