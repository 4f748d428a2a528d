"""A worker's scores: of the model as it was, while it trains, and after; those from before go along in checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile

from accelerate import PartialState
from sentence_transformers import SentenceTransformer

from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.tables import read_table
from mnrl_job.embedding.finite import REMEDY, UndefinedEmbedding
from mnrl_job.embedding.precision import choose_precision
from mnrl_job.errors import DataError, Diverged
from mnrl_job.evaluation.primary_eval import PERFECT_SCORE, judged_by
from mnrl_job.evaluation.results import Evaluation
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system.heartbeat import enter_phase
from mnrl_job.system.local_rank import is_local_main_process
from mnrl_job.system.logs import log, warn
from mnrl_job.system.phases import Phase
from mnrl_job.system.record_files import read_record, write_record
from mnrl_job.training.callbacks.best_model import SCORES, WEIGHTS
from mnrl_job.training.hard_negatives.mining_rounds import MININGS, ROWS
from mnrl_job.worker.retrieval import evaluate

BEFORE = "before.json"


@dataclass(frozen=True, slots=True)
class Scores:
    """A model's scores on the eval sets."""

    evaluations: tuple[Evaluation, ...]


def scores_before(model: SentenceTransformer, task: WorkerTask) -> tuple[Evaluation, ...]:
    """Of the model as it is; a run that goes on from a checkpoint finds them there, with the log up to then."""
    if task.resume is None:
        scored = evaluate_all(model, task, "before")
        if PartialState().is_main_process:
            write_record(task.scratch / BEFORE, Scores(scored))
        return scored
    if is_local_main_process():
        for path in extra_checkpoint_files(task):
            if (task.resume / path.name).exists():
                copyfile(task.resume / path.name, path)
    kept = read_record(task.resume / BEFORE, Scores).evaluations
    return tuple(replace(one, results=task.scratch / one.results.name) for one in kept)


def extra_checkpoint_files(task: WorkerTask) -> tuple[Path, ...]:
    """What a checkpoint holds beside the training's state."""
    results = (task.scratch / f"before-{one.name}.jsonl" for one in task.eval_sets)
    best = task.scratch / WEIGHTS, task.scratch / SCORES
    mined = task.scratch / ROWS, task.scratch / MININGS
    return (task.scratch / BEFORE, *results, *best, *mined, task.staging / "training_log.jsonl")


def score_now(model: SentenceTransformer, task: WorkerTask) -> float:
    """The primary metric of the model in training."""
    settings = Settings.model_validate(task.settings)
    name, metric = settings.primary_eval
    eval_set = judged_by(name, task.eval_sets)
    if eval_set is None:
        raise ValueError("a score needs an eval set")
    precision = choose_precision(settings.precision, PartialState().device)
    with named(eval_set, "in"):
        scored = evaluate(model, eval_set, precision, settings.metric_cutoffs, task.scratch / "during.jsonl")
    return scored.metrics[metric]


def evaluate_all(model: SentenceTransformer, task: WorkerTask, when: str) -> tuple[Evaluation, ...]:
    """Score the model on every eval set."""
    settings = Settings.model_validate(task.settings)
    _, metric = settings.primary_eval
    precision = choose_precision(settings.precision, PartialState().device)
    evaluations = []
    for eval_set in task.eval_sets:
        results = task.scratch / f"{when}-{eval_set.name}.jsonl"
        enter_phase(Phase(f"evaluate_{when}"))
        with named(eval_set, when):
            done = evaluate(model, eval_set, precision, settings.metric_cutoffs, results, settings.matryoshka_dims)
        moment = f"{when} training, " if task.pairs else ""
        log(f"{moment}{eval_set.name}: {metric} {done.metrics[metric]:.4f}", seconds=done.seconds)
        evaluations.append(done)
    if task.pairs and when == "before":
        tell_if_perfect(settings, tuple(evaluations))
    return tuple(evaluations)


def tell_if_perfect(settings: Settings, evaluations: tuple[Evaluation, ...]) -> None:
    """Warn where the model cannot become better by what it is judged by."""
    name, metric = settings.primary_eval
    judged = judged_by(name, evaluations)
    if judged and judged.metrics[metric] >= PERFECT_SCORE:
        warn(
            f"{judged.name}.{metric} is {PERFECT_SCORE:g} before training: this eval set cannot show a gain; harder "
            "queries, or a larger corpus, would"
        )


@contextmanager
def named(eval_set: EvalSet, when: str) -> Iterator[None]:
    """Tell of an embedding that is no number by its place in the eval set; and after training, as what it is then.

    Raises:
        DataError: the base model gives one.
        Diverged: the trained one does.
    """
    try:
        yield
    except UndefinedEmbedding as error:
        table = "queries" if error.kind_of_text == "query" else "corpus"
        identifier = read_table(eval_set.folder / f"{table}.arrow")["id"][error.row].as_py()
        told = f"NaN or infinity for the {error.kind_of_text} {identifier!r} of the eval set {eval_set.name}: "
        if when == "before":
            raise DataError(f"the base model gives {told}{error.text!r}; {REMEDY}") from error
        raise Diverged(
            f"{when} training the model gives {told}{error.text!r}; lower MNRL_LEARNING_RATE, or use "
            "MNRL_PRECISION=fp32"
        ) from error
