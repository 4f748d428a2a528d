"""The end of a run: its record, the card of its model, the verdict, and all of it published."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.inputs import Listing
from mnrl_job.data.pairs import Pairs
from mnrl_job.errors import GateError, JobError
from mnrl_job.evaluation.bm25 import lexical_metrics
from mnrl_job.evaluation.dimensions import by_dimension
from mnrl_job.evaluation.gate import Verdict, evaluate_gate
from mnrl_job.evaluation.results import read_results
from mnrl_job.evaluation.significance import Comparison, compare
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.report.html_report import report as report_page
from mnrl_job.report.json_file import write_json
from mnrl_job.report.metrics import Run, metrics
from mnrl_job.report.metrics_schema import Metrics
from mnrl_job.report.model_card import model_card
from mnrl_job.report.rankings import write_rankings
from mnrl_job.runs.attempt import Attempt
from mnrl_job.runs.publish import (
    already_published,
    clear_unfinished,
    commit_run,
    remove_leftovers,
    upload,
    write_manifest,
)
from mnrl_job.runs.publish_lease import PublishLease, acquire_lease
from mnrl_job.runs.status import Clock
from mnrl_job.storage import Store
from mnrl_job.system.logs import warn
from mnrl_job.system.secrets import redacted
from mnrl_job.system.threads import background, settle
from mnrl_job.tracking.results import Results, into_files, to_servers
from mnrl_job.tracking.tracked import tracked_run
from mnrl_job.worker.results import Export, Verification, WorkerResult

# A file of a checkpoint whose upload failed may still be on its way, and would come after the others are removed.
LATE_SECONDS = 30.0
# By eval set; None where there is nothing to tell.
Lexical = dict[str, dict[str, float] | None]


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended well. `content` is that of `metrics.json`; None where it was published before, or `by_peer`."""

    run: str
    content: Metrics | None
    by_peer: bool = False


def lexical(settings: Settings, eval_sets: tuple[EvalSet, ...]) -> Callable[[], Lexical]:
    """Begin to score BM25 on the eval sets while others work. Returns what waits for it."""
    return background(lambda: {one.name: _lexical(settings, one) for one in eval_sets})


def _lexical(settings: Settings, eval_set: EvalSet) -> dict[str, float] | None:
    try:
        return lexical_metrics(eval_set, settings.metric_cutoffs)
    except Exception as error:  # a line for scale is not worth a run
        warn(f"{eval_set.name}: there is no BM25 to compare with: {type(error).__name__}: {error}")
        return None


@dataclass(frozen=True, slots=True)
class RunResults:
    """What the steps before came to. `by_words` is BM25's; what only a training has is empty without one.

    `listing` tells what was there of the inputs, as `data/listing.py` compares it.
    """

    task: WorkerTask
    result: WorkerResult
    by_words: Lexical
    listing: dict[str, Listing]
    read: Pairs | None = None
    verification: Verification | None = None
    exports: tuple[Export, ...] = ()


def report(settings: Settings, place: Attempt, clock: Clock, work: RunResults) -> RunOutcome:
    """Judge the run, make its record, its page and its model's card, then publish.

    Raises:
        GateError: the model is not good enough; all is published, but not as a success.
    """
    run = record(settings, place, clock, work, compared(settings, work))
    results = write_pages(settings, place, run, work.task)
    return publish(place, clock, run, {"inputs": work.task.inputs, "inputs_listing": work.listing}, results)


def record(
    settings: Settings, place: Attempt, clock: Clock, work: RunResults, comparisons: tuple[Comparison, ...]
) -> Run:
    """All that is known of the run, with its verdict, which also ends this attempt's entry in the history."""
    training = work.result.training
    verdict = evaluate_gate(settings, comparisons, training.collapse) if training else Verdict(passed=True, rule="none")
    outcome = "succeeded" if verdict.passed else GateError.kind
    place.diary.write(place.store(), outcome=outcome, last_step=training.steps if training else 0)
    return Run(
        id=place.run_id,
        started_at=place.started_at,
        settings=settings,
        base_model=settings.base_model,
        result=work.result,
        eval_sets=work.task.eval_sets,
        comparisons=comparisons,
        verdict=verdict,
        seconds=clock.seconds,
        pairs=work.read,
        batching=work.task.batching,
        verification=work.verification,
        exports=work.exports,
        attempts=place.diary.all(place.store()),
    )


def write_pages(settings: Settings, place: Attempt, run: Run, task: WorkerTask) -> Results:
    """What people read: the card of the model, the page of the run. Returns what trackers are told."""
    content = metrics(run)
    if task.pairs is not None:
        (place.staging / "model" / "README.md").write_text(model_card(redacted(content)), encoding="utf-8")
    page = report_page(place.staging, content, settings, task.eval_sets, place.settings_hash, task.inputs)
    (place.staging / "report.html").write_text(page, encoding="utf-8")
    tracked = tracked_run(Settings.model_validate(task.settings), task.scratch, task.staging)
    results = Results(tracked, settings.report_to, dict(content), place.staging / "report.html", settings.log_format)
    into_files(results)
    return results


def compared(settings: Settings, work: RunResults) -> tuple[Comparison, ...]:
    """Before, after and BM25 on each eval set."""
    return tuple(
        replace(compare_set(settings, work.task, work.result, one.name), bm25=work.by_words[one.name])
        for one in work.task.eval_sets
    )


def compare_set(settings: Settings, task: WorkerTask, result: WorkerResult, name: str) -> Comparison:
    """Before against after on one eval set, also query by query into `rankings/`."""
    before = next(one for one in result.before if one.name == name)
    after = next((one for one in result.after if one.name == name), None)
    results = read_results(before.results), read_results(after.results) if after else []
    write_rankings(task.staging / "rankings" / f"{name}.jsonl", *results)
    compared = compare(name, *results, settings.seed) if after else Comparison(name, before.metrics)
    return replace(compared, dimensions=by_dimension(before, after))


def publish(place: Attempt, clock: Clock, run: Run, inputs: dict[str, Any], results: Results) -> RunOutcome:
    """Put what is staged at the run's place, unless another attempt was faster; then leave nothing beside it.

    The manifest tells of the `inputs`.

    Only the attempt that did so tells the trackers of the results.

    Raises:
        GateError: it is there, but not as a success.
    """
    store = place.store()
    with acquire_lease(store) as claim:
        published = already_published(store, place.settings_hash)
        content = None if published else put(place, clock, run, inputs, store, claim)
    if content:
        to_servers(results)
    if content and not run.verdict.passed:
        told = f"the gate: {'; '.join(run.verdict.failed)}"
        raise GateError(f"{told}; the run is kept in {place.run}, without _SUCCESS", content)
    place.status.finish()
    settle(LATE_SECONDS)
    with suppress(JobError):  # the run stands; what is left beside it goes the next time
        remove_leftovers(store)
    return RunOutcome(place.run, content)


def put(place: Attempt, clock: Clock, run: Run, inputs: dict[str, Any], store: Store, claim: PublishLease) -> Metrics:
    """Whole or not at all; `_SUCCESS` only where it passed the gate. Returns the content of `metrics.json`."""
    clear_unfinished(store, claim)
    with clock("publish"):
        files = upload(place.staging, store, claim, {})
    content = metrics(run)
    write_json(place.staging / "metrics.json", content)
    files = upload(place.staging, store, claim, files)
    facts = {
        "run_id": place.run_id,
        "attempt": len(run.attempts),
        "settings_sha256": place.settings_hash,
    }
    finish = commit_run if run.verdict.passed else write_manifest
    finish(store, claim, place.staging, facts | inputs | {"files": files})
    return content
