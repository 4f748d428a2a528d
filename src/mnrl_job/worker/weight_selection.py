"""Interpolate the trained weights with the base model's: by the fraction given, or by scores on the selection sets."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from accelerate import PartialState
from accelerate.utils import gather_object
from sentence_transformers import SentenceTransformer

from mnrl_job.data.evalset import EvalSet
from mnrl_job.evaluation.general_guard import guard_metric
from mnrl_job.evaluation.results import read_results
from mnrl_job.evaluation.weight_selection import (
    ALPHAS,
    InterpolationPoint,
    choose_alpha,
    interpolation_points,
)
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.system.heartbeat import enter_phase
from mnrl_job.system.logs import log
from mnrl_job.system.phases import Phase
from mnrl_job.training.weight_interpolation import DEFAULT_ALPHA, Weights, host_copy, interpolate
from mnrl_job.worker.scoring import evaluate_selection_set

Points = tuple[InterpolationPoint, ...]


def fixed_alpha(task: WorkerTask) -> float | None:
    """The fraction of the trained weights; None if it is selected by scores."""
    if task.selects_alpha:
        return None
    alpha = task.settings.weight_interpolation
    return DEFAULT_ALPHA if alpha == "auto" else alpha


def select_weights(
    task: WorkerTask, model: SentenceTransformer, weights: Weights, base: Weights, alpha: float | None
) -> tuple[float, Points]:
    """Interpolate these `weights` of `model` with those of `base`, in place; None for `alpha` selects it. Collective.

    Returns the fraction of the trained weights, and the scores it was selected by.
    """
    if alpha is not None:
        interpolate(weights, base, weights, alpha)
        return alpha, ()
    trained = host_copy(weights)
    points = _score_fractions(task, model, partial(interpolate, weights, base, trained))
    alpha = choose_alpha(points)
    interpolate(weights, base, trained, alpha)
    log(f"weight interpolation: {alpha:g} of the trained weights", points=[asdict(point) for point in points])
    return alpha, points


def _score_fractions(task: WorkerTask, model: SentenceTransformer, mix: Callable[[float], None]) -> Points:
    """Score each of `ALPHAS`, for which `mix` sets the weights of `model`."""
    if task.selection is None:
        raise ValueError("selecting weights needs a selection split")
    split, guard = task.selection.split, task.selection.guard
    _, metric = task.settings.primary_eval
    guard_ndcg = guard_metric(f"ndcg@{cutoff}" for cutoff in task.settings.metric_cutoffs)
    selection: dict[float, list[float]] = {}
    general_search: dict[float, list[float]] = {}
    enter_phase(Phase.EVALUATE_AFTER)
    for alpha in ALPHAS:
        mix(alpha)
        selection[alpha] = _query_scores(model, task, split, metric)
        if guard:
            general_search[alpha] = _query_scores(model, task, guard, guard_ndcg)
    points = interpolation_points(selection, general_search) if PartialState().is_main_process else ()
    gathered: Points = gather_object([points])[0]
    return gathered


def _query_scores(model: SentenceTransformer, task: WorkerTask, eval_set: EvalSet, metric: str) -> list[float]:
    """The metric of each query, on the first rank; only it has the results. Collective."""
    results = evaluate_selection_set(model, task, eval_set).results
    if not PartialState().is_main_process:
        return []
    return [query.metrics[metric] for query in read_results(results)]
