"""Scores of a worker's model before, during and after training; those from before are part of checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shutil import copyfile

from accelerate import PartialState
from sentence_transformers import SentenceTransformer

from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.tables import read_table
from mnrl_job.embedding.nonfinite import REMEDY, NonFiniteEmbedding
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
from mnrl_job.training.hard_negatives.mining_rounds import NEGATIVES_FILE, ROUNDS_FILE
from mnrl_job.worker.retrieval import EvaluationOptions, evaluate

BEFORE = "before.json"


def scores_before(model: SentenceTransformer, task: WorkerTask) -> tuple[Evaluation, ...]:
    """Score the base model. A resumed run takes the scores from the checkpoint, with the other extra files."""
    if task.resume is None:
        evaluations = evaluate_all(model, task, "before")
        if PartialState().is_main_process:
            write_record(task.scratch / BEFORE, evaluations)
        return evaluations
    if is_local_main_process():
        for path in extra_checkpoint_files(task):
            if (task.resume / path.name).exists():
                copyfile(task.resume / path.name, path)
    evaluations = read_record(task.resume / BEFORE, tuple[Evaluation, ...])
    return tuple(replace(scores, results=task.scratch / scores.results.name) for scores in evaluations)


def extra_checkpoint_files(task: WorkerTask) -> tuple[Path, ...]:
    """Files of a checkpoint beside the state of the training."""
    results = (task.scratch / f"before-{eval_set.name}.jsonl" for eval_set in task.eval_sets)
    best = task.scratch / WEIGHTS, task.scratch / SCORES
    mined = task.scratch / NEGATIVES_FILE, task.scratch / ROUNDS_FILE
    return (task.scratch / BEFORE, *results, *best, *mined, task.staging / "training_log.jsonl")


def selection_score(model: SentenceTransformer, task: WorkerTask) -> float:
    """The primary metric on the selection split, by which the best weights are chosen during training."""
    if task.selection is None:
        raise ValueError("scores during training need a selection split")
    _, metric = task.settings.primary_eval
    return evaluate_selection_set(model, task, task.selection.split).metrics[metric]


def evaluate_selection_set(model: SentenceTransformer, task: WorkerTask, eval_set: EvalSet) -> Evaluation:
    """Evaluate on a set that is not reported. The next call overwrites the results. Collective."""
    options = replace(evaluation_options(task.settings), dimensions=())
    with locating_undefined_embeddings(eval_set, "in"):
        return evaluate(model, eval_set, options, task.scratch / "selection.jsonl")


def evaluation_options(settings: Settings) -> EvaluationOptions:
    precision = choose_precision(settings.precision, PartialState().device)
    return EvaluationOptions(precision, settings.metric_cutoffs, settings.matryoshka_dims)


def evaluate_all(model: SentenceTransformer, task: WorkerTask, when: str) -> tuple[Evaluation, ...]:
    _, metric = task.settings.primary_eval
    options = evaluation_options(task.settings)
    evaluations = []
    prefix = f"{when} training, " if task.pairs else ""
    for eval_set in task.eval_sets:
        results = task.scratch / f"{when}-{eval_set.name}.jsonl"
        enter_phase(Phase(f"evaluate_{when}"))
        log(f"{prefix}{eval_set.name}: scoring {eval_set.queries} queries over {eval_set.documents} documents")
        with locating_undefined_embeddings(eval_set, when):
            evaluation = evaluate(model, eval_set, options, results)
        log(f"{prefix}{eval_set.name}: {metric} {evaluation.metrics[metric]:.4f}", seconds=evaluation.seconds)
        evaluations.append(evaluation)
    if task.pairs and when == "before":
        warn_if_perfect(task.settings.primary_eval, tuple(evaluations))
    return tuple(evaluations)


def warn_if_perfect(primary_eval: tuple[str, str], evaluations: tuple[Evaluation, ...]) -> None:
    """Warn if the primary metric, given as eval set and metric, cannot improve."""
    name, metric = primary_eval
    primary = judged_by(name, evaluations)
    if primary and primary.metrics[metric] >= PERFECT_SCORE:
        warn(
            f"{primary.name}.{metric} is {PERFECT_SCORE:g} before training: this eval set cannot show a gain; harder "
            "queries, or a larger corpus, would"
        )


@contextmanager
def locating_undefined_embeddings(eval_set: EvalSet, when: str) -> Iterator[None]:
    """Report an embedding with NaN or infinity with its text in the eval set.

    Raises:
        DataError: the base model gives it.
        Diverged: the trained model gives it.
    """
    try:
        yield
    except NonFiniteEmbedding as error:
        table = "queries" if error.kind_of_text == "query" else "corpus"
        identifier = read_table(eval_set.folder / f"{table}.arrow")["id"][error.row].as_py()
        problem = f"NaN or infinity for the {error.kind_of_text} {identifier!r} of the eval set {eval_set.name}: "
        if when == "before":
            raise DataError(f"the base model gives {problem}{error.text!r}; {REMEDY}") from error
        raise Diverged(
            f"{when} training the model gives {problem}{error.text!r}; lower MNRL_LEARNING_RATE, or use "
            "MNRL_PRECISION=fp32"
        ) from error
