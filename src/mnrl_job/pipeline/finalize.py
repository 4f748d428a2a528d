"""The last steps of a run: gate, metrics, report, model card, publication."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.inputs import Listing
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.tables import read_table
from mnrl_job.errors import GateError, JobError
from mnrl_job.evaluation.bm25 import bm25_metrics
from mnrl_job.evaluation.dimensions import by_dimension
from mnrl_job.evaluation.gate import GateConfig, GateResult, evaluate_gate
from mnrl_job.evaluation.results import read_results
from mnrl_job.evaluation.significance import Comparison, compare
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.report.html_report import render_report
from mnrl_job.report.json_file import write_json
from mnrl_job.report.metrics import Run, build_metrics
from mnrl_job.report.metrics_schema import Metrics, TrainingSettings
from mnrl_job.report.model_card import model_card
from mnrl_job.report.rankings import write_rankings
from mnrl_job.runs.attempt import Attempt
from mnrl_job.runs.publish import (
    already_published,
    clear_unfinished,
    commit_run,
    remove_leftovers,
    upload,
    upload_manifest,
)
from mnrl_job.runs.publish_lease import PublishLease, acquire_lease
from mnrl_job.runs.status import PhaseTimer
from mnrl_job.storage import Store
from mnrl_job.system.logs import warn
from mnrl_job.system.phases import Phase
from mnrl_job.system.secrets import redacted
from mnrl_job.system.threads import background, join_threads
from mnrl_job.tracking.results import Results, log_to_files, log_to_servers
from mnrl_job.tracking.run import tracked_run
from mnrl_job.worker.results import Verification, WorkerResult

# Time for failed uploads of checkpoint files still under way, which would create files after the removal.
LATE_UPLOAD_SECONDS = 30.0
# By eval set; None where BM25 could not be computed.
Bm25Metrics = dict[str, dict[str, float] | None]


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """A run that ended well. `metrics` is None where it was published before, or `by_peer`."""

    uri: str
    metrics: Metrics | None
    by_peer: bool = False


@dataclass(frozen=True, slots=True)
class RunResults:
    """The results of the steps before. `evaluate` has no `pairs` and `verification`.

    `listing` describes the inputs as `data/listing.py` compares them.
    """

    task: WorkerTask
    result: WorkerResult
    bm25: Bm25Metrics
    listing: dict[str, Listing]
    pairs: Pairs | None = None
    verification: Verification | None = None


def start_bm25(eval_sets: Sequence[EvalSet], cutoffs: Sequence[int]) -> Callable[[], Bm25Metrics]:
    """Start to score BM25 on the eval sets in the background. Returns a function that waits for the metrics."""
    return background(lambda: {eval_set.name: _bm25(eval_set, cutoffs) for eval_set in eval_sets})


def _bm25(eval_set: EvalSet, cutoffs: Sequence[int]) -> dict[str, float] | None:
    try:
        return bm25_metrics(eval_set, cutoffs)
    except Exception as error:  # a baseline must not fail the run
        warn(f"{eval_set.name}: cannot compute BM25: {type(error).__name__}: {error}")
        return None


def finalize(settings: Settings, attempt: Attempt, timer: PhaseTimer, results: RunResults) -> RunOutcome:
    """Evaluate the gate, write metrics, report and model card, then publish.

    Raises:
        GateError: the model failed the gate; everything is published, without `_SUCCESS`.
    """
    comparisons = tuple(
        replace(
            compare_eval_set(results.task, results.result, eval_set, settings.seed),
            bm25=results.bm25[eval_set.name],
        )
        for eval_set in results.task.eval_sets
    )
    run = record_run(settings, attempt, timer, results, comparisons)
    tracker_results = write_report(settings, attempt, run, results.task)
    inputs = {"inputs": results.task.inputs, "inputs_listing": results.listing}
    return publish(attempt, timer, run, inputs, tracker_results)


def compare_eval_set(task: WorkerTask, result: WorkerResult, eval_set: EvalSet, seed: int) -> Comparison:
    """Compare one eval set before and after training, and write its `rankings/` file."""
    name = eval_set.name
    before = next(evaluation for evaluation in result.before if evaluation.name == name)
    after = next((evaluation for evaluation in result.after if evaluation.name == name), None)
    query_results = read_results(before.results), read_results(after.results) if after else []
    queries = read_table(eval_set.folder / "queries.arrow")
    texts = dict(zip(queries["id"].to_pylist(), queries["text"].to_pylist(), strict=True))
    write_rankings(task.staging / "rankings" / f"{name}.jsonl", texts, *query_results)
    comparison = compare(name, *query_results, seed) if after else Comparison(name, before.metrics)
    return replace(comparison, dimensions=by_dimension(before, after))


def record_run(
    settings: Settings,
    attempt: Attempt,
    timer: PhaseTimer,
    results: RunResults,
    comparisons: tuple[Comparison, ...],
) -> Run:
    """Evaluate the gate and collect everything the report needs. Also ends this attempt in the history."""
    training = results.result.training
    gate = GateResult(passed=True, rule="none")
    if training:
        config = GateConfig(
            settings.primary_eval,
            settings.min_gain,
            settings.max_p_value,
            settings.guard_evals,
            settings.max_guard_loss,
        )
        gate = evaluate_gate(config, comparisons, training.collapse)
        for warning in gate.warnings:
            warn(warning)
    outcome = "succeeded" if gate.passed else GateError.kind
    attempt.history.update(attempt.store(), outcome=outcome, last_step=training.steps if training else 0)
    return Run(
        id=attempt.run_id,
        started_at=attempt.started_at,
        primary=settings.primary_eval,
        training_settings=training_settings(settings),
        base_model=settings.base_model,
        result=results.result,
        eval_sets=results.task.eval_sets,
        comparisons=comparisons,
        gate=gate,
        seconds=timer.seconds,
        pairs=results.pairs,
        verification=results.verification,
        attempts=attempt.history.records(attempt.store()),
    )


def training_settings(settings: Settings) -> TrainingSettings:
    return {
        "loss": settings.loss,
        "guide_model": settings.guide_model or None,
        "scale": settings.scale,
        "matryoshka_dims": list(settings.matryoshka_dims),
        "hardness": str(settings.hardness) if settings.hardness else None,
        "epochs": settings.epochs,
        "global_batch_size": settings.batch_size,
        "lora_rank": settings.lora_rank,
        "hard_negatives": settings.num_hard_negatives,
    }


def write_report(settings: Settings, attempt: Attempt, run: Run, task: WorkerTask) -> Results:
    """Write model card and HTML report. Returns the results for experiment trackers."""
    metrics = build_metrics(run)
    if task.pairs is not None:
        (attempt.staging / "model" / "README.md").write_text(model_card(redacted(metrics)), encoding="utf-8")
    page = render_report(attempt.staging, metrics, settings, task.eval_sets, attempt.settings_hash, task.inputs)
    path = attempt.staging / "report.html"
    path.write_text(page, encoding="utf-8")
    tracked = tracked_run(task.settings, task.scratch, task.staging)
    results = Results(tracked, settings.report_to, dict(metrics), path, settings.log_format)
    log_to_files(results)
    return results


def publish(
    attempt: Attempt, timer: PhaseTimer, run: Run, inputs: dict[str, Any], tracker_results: Results
) -> RunOutcome:
    """Publish the staged files, unless another attempt was first; then remove checkpoints and leftovers.

    Only the attempt that published reports to experiment trackers. `inputs` are entries of the manifest.

    Raises:
        GateError: the model failed the gate; everything is published, without `_SUCCESS`.
    """
    store = attempt.store()
    with acquire_lease(store) as lease:
        is_published = already_published(store, attempt.settings_hash)
        content = None if is_published else publish_files(attempt, timer, run, inputs, store, lease)
    if content:
        log_to_servers(tracker_results)
    if content and not run.gate.passed:
        failures = "; ".join(run.gate.failed)
        raise GateError(f"the gate: {failures}; the run is in {attempt.run_uri}, without _SUCCESS", content)
    attempt.status.finish()
    join_threads(LATE_UPLOAD_SECONDS)
    with suppress(JobError):  # the run is complete; the next attempt removes what is left
        remove_leftovers(store)
    return RunOutcome(attempt.run_uri, content)


def publish_files(
    attempt: Attempt, timer: PhaseTimer, run: Run, inputs: dict[str, Any], store: Store, lease: PublishLease
) -> Metrics:
    """Upload all files, the manifest, and `_SUCCESS` if the gate passed. Returns the content of `metrics.json`."""
    clear_unfinished(store, lease)
    with timer(Phase.PUBLISH):
        files = upload(attempt.staging, store, lease, {})
    content = build_metrics(run)
    write_json(attempt.staging / "metrics.json", content)
    files = upload(attempt.staging, store, lease, files)
    facts = {"run_id": attempt.run_id, "attempt": len(run.attempts), "settings_sha256": attempt.settings_hash}
    finish = commit_run if run.gate.passed else upload_manifest
    finish(store, lease, attempt.staging, facts | inputs, files)
    return content
