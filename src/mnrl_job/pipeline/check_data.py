"""The data part of a check: fetch, read and prepare as `train` does, or a sample of large data."""

import time
from dataclasses import dataclass, replace
from typing import Any

from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.inputs import Inputs, LocatedInputs, fetch_inputs
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.read_pairs import read_pairs
from mnrl_job.data.row_selection import NoRowMatches
from mnrl_job.data.sample import SampledSource, sample_sources
from mnrl_job.deduplication.orientation import SwappedColumns, find_swapped_columns
from mnrl_job.errors import SettingsError
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.pipeline.check_sample import (
    check_bad_rows,
    describe_sample,
    estimate_workload,
    for_trial,
    sampled_rows,
)
from mnrl_job.pipeline.find_prepared import location_of
from mnrl_job.pipeline.findings import Findings
from mnrl_job.pipeline.inputs import (
    check_eval_names,
    input_uris,
    read_eval_sets,
    read_options,
    selection_sets,
    with_general_guard,
)
from mnrl_job.pipeline.load_prepared import load_prepared
from mnrl_job.pipeline.predictions import Workload, predict_preparation
from mnrl_job.pipeline.preparation import prepare_pairs
from mnrl_job.pipeline.prepared import Prepared
from mnrl_job.pipeline.tasks import worker_task
from mnrl_job.report.audit import audit_findings
from mnrl_job.runs.attempt import Attempt
from mnrl_job.system.finding import Finding
from mnrl_job.system.quantities import file_size


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial run trains on, with which settings, and what the whole run has to do."""

    settings: Settings
    prepared: Prepared
    work: Workload


def check_data(
    settings: Settings, attempt: Attempt, located: LocatedInputs, workers: int, findings: Findings, full: bool
) -> tuple[WorkerTask, Workload, dict[str, Any]] | None:
    """Check the training data and the eval sets, of large data a sample unless `full`.

    Returns:
        The task of a trial run, the work of the whole run and the audit; None if the data is unusable.
    """
    with findings.checking("data"):
        sample = () if full else sample_sources(located.train, sampled_rows(settings), attempt.scratch / "sample")
        if sample:
            findings.passed("sample", describe_sample(sample))
            located = replace(located, train=())
        inputs = fetch_data(settings, attempt, located, findings)
        if store := located.prepared:
            prepared = load_prepared(store, settings, attempt.scratch, workers)
            findings.passed("prepared data", f"{location_of(store)}: {prepared.pairs.rows} pairs")
            trial = Trial(settings, prepared, Workload(prepared.pairs.rows, 0, prepared.batch_plan.steps, 0))
        else:
            inputs = replace(inputs, train=sample or inputs.train)
            found = prepare_data(settings, attempt, inputs, sample, workers, findings)
            if found is None:
                return None
            trial, prepared = found, found.prepared
        eval_sets = with_general_guard(prepared.eval_sets, settings.general_guard, attempt.scratch)
        for eval_set in eval_sets:
            findings.passed(f"eval set {eval_set.name}", describe_eval_set(eval_set))
        findings.add_all(audit_findings(prepared.audit))
        if not store:
            findings.add(predict_preparation(trial.work, attempt.scratch))
        check_eval_names(settings, prepared.eval_sets)
        selection = selection_sets(prepared.selection_split, settings.general_guard, attempt.scratch)
        task = worker_task(trial.settings, attempt, inputs, eval_sets, prepared.pairs, prepared.batch_plan)
        return replace(task, selection=selection), trial.work, prepared.audit
    return None


def fetch_data(settings: Settings, attempt: Attempt, located: LocatedInputs, findings: Findings) -> Inputs:
    """Download the inputs."""
    started = time.perf_counter()
    inputs = fetch_inputs(located, input_uris(settings), attempt.inputs)
    if located.remote_bytes:
        seconds = time.perf_counter() - started
        size = file_size(located.remote_bytes)
        findings.passed("fetch", f"{size} in {seconds:.1f} s, size and checksum verified")
    return inputs


def prepare_data(
    settings: Settings,
    attempt: Attempt,
    inputs: Inputs,
    sample: tuple[SampledSource, ...],
    workers: int,
    findings: Findings,
) -> Trial | None:
    """Read and prepare the pairs, or a sample of them; None if no batch can be filled, or no row is selected."""
    scratch = attempt.scratch
    eval_sets = read_eval_sets(inputs.evals, scratch, settings.max_bad_row_ratio)
    started = time.perf_counter()
    options = read_options(settings)
    if sample:  # `check_bad_rows` judges its unusable rows
        options = replace(options, max_bad_row_ratio=1.0)
    try:
        pairs = read_pairs(inputs.train, options, scratch / "pairs.arrow")
    except NoRowMatches as error:
        if not sample:
            raise
        findings.add(Finding("rows", "warning", f"in the sample: {error}", "check all rows with --full"))
        return None
    findings.add(check_bad_rows(pairs, settings.max_bad_row_ratio) if sample else describe_rows(pairs))
    findings.add_all(map(swapped_columns, find_swapped_columns(pairs, eval_sets)))
    with findings.checking("batches", SettingsError):
        planned, read = for_trial(settings, pairs) if sample else (settings, pairs)
        prepared = prepare_pairs(planned, read, eval_sets, scratch, scratch, workers)
        seconds = time.perf_counter() - started
        if sample:
            work, audit = estimate_workload(settings, sample, pairs, prepared, seconds)
            return Trial(planned, replace(prepared, audit=audit), work)
        work = Workload(prepared.pairs.rows, pairs.path.stat().st_size, prepared.batch_plan.steps, seconds)
        return Trial(planned, prepared, work)
    return None


def describe_rows(pairs: Pairs) -> Finding:
    rejected = f"{sum(pairs.rejected.values())} rejected"
    filtered = f", {pairs.filtered} excluded by MNRL_ROW_FILTER" if pairs.filtered else ""
    return Finding("rows", "passed", f"{pairs.rows} pairs from {pairs.rows_read} rows, {rejected}{filtered}")


def describe_eval_set(eval_set: EvalSet) -> str:
    size = f"{eval_set.queries} queries over {eval_set.documents} documents"
    if eval_set.own_documents:
        size += f"; {eval_set.own_documents} queries are also in the corpus, and excluded from their own rankings"
    rejected = sum(eval_set.rejected.values())
    return size + (f"; {rejected} rows rejected" if rejected else "")


def swapped_columns(swapped: SwappedColumns) -> Finding:
    """Why the anchors and positives of a source may be swapped, and the settings that swap them back."""
    source = swapped.source
    detail = (
        f"{source.name}: anchors and positives may be swapped: the median length is {swapped.anchor_characters} "
        f"characters for anchors and {swapped.positive_characters} for positives"
    )
    if swapped.query_like_positives is not None:
        share = f"{swapped.query_like_positives:.0%} of the rows"
        detail += f", and in {share} the positive is more like the eval queries than the anchor"
    anchor, positive = (source.columns.get(role, role) for role in ("anchor", "positive"))
    remedy = f"if so, set MNRL_ANCHOR_COLUMN={positive} and MNRL_POSITIVE_COLUMN={anchor}"
    return Finding("columns", "warning", detail, remedy)
