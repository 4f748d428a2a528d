"""The `check` command: finds what would fail a run before GPU time is spent, each finding with its remedy."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mnrl_job.config.setting_types import Source
from mnrl_job.config.settings import Settings
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.inputs import Inputs, LocatedInputs, fetch_inputs, locate_inputs
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.read_pairs import read_pairs
from mnrl_job.data.sample import SampledSource, sample_sources
from mnrl_job.data.sources import ResolvedSource, locate, locate_model, rejoin_commas
from mnrl_job.deduplication.orientation import SwappedColumns, find_swapped_columns
from mnrl_job.errors import SettingsError
from mnrl_job.launch.accelerate_config import check_accelerate_file
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.pipeline.check_model import check_model
from mnrl_job.pipeline.check_sample import (
    check_bad_rows,
    describe_sample,
    estimate_workload,
    for_trial,
    sample_options,
    sampled_rows,
    truncation_findings,
)
from mnrl_job.pipeline.findings import Findings
from mnrl_job.pipeline.inputs import (
    check_eval_names,
    input_uris,
    needed_scratch_bytes,
    read_eval_sets,
    read_options,
    selection_sets,
    with_general_guard,
)
from mnrl_job.pipeline.predictions import Workload, predict_preparation
from mnrl_job.pipeline.prepare import prepare
from mnrl_job.pipeline.published import is_published
from mnrl_job.pipeline.tasks import worker_task
from mnrl_job.report.audit import audit_findings, with_lengths
from mnrl_job.runs.attempt import Attempt, start_attempt
from mnrl_job.storage.probe import probe, write_speed
from mnrl_job.system import machine
from mnrl_job.system.devices import Devices, describe_gpus, find_devices
from mnrl_job.system.finding import Finding
from mnrl_job.system.preemption import raise_on_signal
from mnrl_job.system.quantities import file_size, plural
from mnrl_job.tracking.packages import check_packages


def check(
    settings: Settings, report: Callable[[Finding], None], full: bool = False
) -> tuple[tuple[Finding, ...], dict[str, Any] | None]:
    """Run all checks, except those that depend on a failed one; `report` is called with each finding at once.

    Of large data a sample is checked, unless `full`.

    Returns:
        The findings, and the content of `audit.json`, None where the data is unusable.
    """
    findings = Findings(report)
    findings.passed("settings", "all valid")
    for finding in check_packages(settings.report_to):
        findings.add(finding)
    with raise_on_signal(), start_attempt(settings) as attempt, machine.translate_disk_full(attempt.scratch):
        if attempt.nodes.is_first:
            audit = check_run(settings, attempt, findings, full)
        else:
            audit = None
            check_machine(settings, attempt, check_inputs_exist(settings, attempt, findings), findings)
    return tuple(findings.items), audit


def check_run(settings: Settings, attempt: Attempt, findings: Findings, full: bool) -> dict[str, Any] | None:
    """Run all checks of node 0. Returns the content of `audit.json`, None where the data is unusable."""
    speed = check_output(settings, attempt, findings)
    located = check_inputs(settings, findings)
    devices = check_machine(settings, attempt, located, findings)
    if not located or not devices:
        return None
    checked = check_data(settings, attempt, located, devices, findings, full)
    if checked is None:
        return None
    task, work, audit = checked
    lengths = check_model(task, work, devices, attempt.timeouts, speed, findings)
    for finding in truncation_findings(lengths) if lengths and work.is_sampled else ():
        findings.add(finding)
    return with_lengths(audit, lengths)


def check_inputs_exist(settings: Settings, attempt: Attempt, findings: Findings) -> LocatedInputs | None:
    """Locate the inputs, whose size the disk check needs. Their content is the same for all nodes: node 0 checks it."""
    with findings.checking("inputs"):
        located = locate_inputs(input_uris(settings))
        findings.passed("inputs", f"found; this is node {attempt.nodes.rank}, node 0 checks data, model and output")
        return located
    return None


def check_output(settings: Settings, attempt: Attempt, findings: Findings) -> float | None:
    """Write, read, create and delete in the run's folder. Returns the bytes written per second, None on failure."""
    with findings.checking("output"):
        store = attempt.store()
        if is_published(settings, attempt, store):
            remedy = "train would do nothing; choose another MNRL_RUN_ID to train again"
            findings.add(
                Finding("output", "warning", f"{attempt.run_uri} is already published with these settings", remedy)
            )
            return None
        writes = "conditional writes" if probe(store) else "no conditional writes, so attempts lock"
        speed = write_speed(store)
        findings.passed("output", f"{attempt.run_uri}: can write, read and delete; {writes}; {file_size(speed)}/s")
        return speed
    return None


def check_inputs(settings: Settings, findings: Findings) -> LocatedInputs | None:
    """Locate each input; None where one is missing."""
    style = settings.s3_addressing_style

    def locate_all(sources: tuple[Source, ...], variable: str) -> list[ResolvedSource | None]:
        return [_locate(findings, source, variable, style) for source in rejoin_commas(sources, variable, style)]

    train = locate_all(settings.train_data, "MNRL_TRAIN_DATA")
    evals = locate_all(settings.eval_data, "MNRL_EVAL_DATA")
    names = {"base model": settings.base_model} | (
        {"guide model": settings.guide_model} if settings.guide_model else {}
    )
    models: dict[str, ResolvedSource | None] = {}
    for check, name in names.items():
        with findings.checking(check):
            model = models[check] = locate_model(name, style, f"MNRL_{check.replace(' ', '_').upper()}")
            size = file_size(model.bytes) if model else "a Hub id, loaded below"
            findings.passed(check, f"{name}: {size}")
    if not all((*train, *evals)) or models.keys() != names.keys():
        return None
    data = tuple(filter(None, train)), tuple(filter(None, evals))
    return LocatedInputs(*data, models["base model"], models.get("guide model"))


def _locate(findings: Findings, source: Source, variable: str, addressing_style: str) -> ResolvedSource | None:
    check = f"input {source.name}"
    with findings.checking(check):
        located = locate(source, variable, addressing_style)
        files = len(located.files) or len(located.entries)
        findings.passed(check, f"{located.uri}: {plural(files, 'file')}, {file_size(located.bytes)}")
        return located
    return None


def check_machine(
    settings: Settings, attempt: Attempt, located: LocatedInputs | None, findings: Findings
) -> Devices | None:
    """Check devices, disk, shared memory, user and caches. Returns the devices, None where a check failed."""
    devices = None
    with findings.checking("devices"):
        devices = find_devices(settings.num_processes, settings.min_gpus)
        findings.passed("devices", f"{describe_gpus()}; {plural(devices.workers, 'worker')}")
    if devices and settings.accelerate_config:
        with findings.checking("accelerate config"):
            check_accelerate_file(settings.accelerate_config, devices.workers, attempt.nodes)
            findings.passed("accelerate config", f"{settings.accelerate_config}: supported")
    machine_findings = [machine.shared_memory(devices)] if devices else []
    machine_findings += [machine.user(), machine.caches()]
    machine_findings += [machine.disk(attempt.scratch, needed_scratch_bytes(settings, located))] if located else []
    for finding in machine_findings:
        findings.add(finding)
    return None if any(finding.status == "failed" for finding in machine_findings) else devices


def check_data(
    settings: Settings, attempt: Attempt, located: LocatedInputs, devices: Devices, findings: Findings, full: bool
) -> tuple[WorkerTask, Workload, dict[str, Any]] | None:
    """Download, read and prepare as `train` does, or a sample. Returns task, work and audit, None if it is unusable."""
    with findings.checking("data"):
        inputs, sample = fetch_data(settings, attempt, located, findings, full)
        eval_sets = read_eval_sets(inputs.evals, attempt.scratch, settings.max_bad_row_ratio)
        started = time.perf_counter()
        options = sample_options(settings) if sample else read_options(settings)
        pairs = read_pairs(inputs.train, options, attempt.scratch / "pairs.arrow")
        findings.add(check_bad_rows(pairs, settings.max_bad_row_ratio) if sample else describe_rows(pairs))
        for swapped in find_swapped_columns(pairs, eval_sets):
            findings.add(swapped_columns(swapped))
        work = None
        with findings.checking("batches", SettingsError):
            planned, source = for_trial(settings, pairs) if sample else (settings, pairs)
            prepared = prepare(planned, attempt, source, eval_sets, attempt.nodes.max_nodes * devices.workers)
            seconds = time.perf_counter() - started
            if sample:
                work, audit = estimate_workload(settings, sample, pairs, prepared, seconds)
            else:
                size = pairs.path.stat().st_size
                work = Workload(prepared.pairs.rows, size, prepared.batch_plan.steps, seconds)
                audit = prepared.audit
            eval_sets = with_general_guard(prepared.eval_sets, settings.general_guard, attempt.scratch)
            for eval_set in eval_sets:
                findings.passed(f"eval set {eval_set.name}", describe_eval_set(eval_set))
            for finding in (*audit_findings(audit), predict_preparation(work, attempt.scratch)):
                findings.add(finding)
        if work:
            check_eval_names(settings, prepared.eval_sets)
            selection = selection_sets(prepared.selection_split, settings.general_guard, attempt.scratch)
            task = worker_task(planned, attempt, inputs, eval_sets, prepared.pairs, prepared.batch_plan)
            return replace(task, selection=selection), work, audit
    return None


def fetch_data(
    settings: Settings, attempt: Attempt, located: LocatedInputs, findings: Findings, full: bool
) -> tuple[Inputs, tuple[SampledSource, ...]]:
    """Download the inputs, of large training data a sample. Returns the sample, too, empty if there is none."""
    sample = () if full else sample_sources(located.train, sampled_rows(settings), attempt.scratch / "sample")
    if sample:
        findings.passed("sample", describe_sample(sample))
        located = replace(located, train=())
    started = time.perf_counter()
    inputs = fetch_inputs(located, input_uris(settings), attempt.inputs)
    if located.remote_bytes:
        seconds = time.perf_counter() - started
        size = file_size(located.remote_bytes)
        findings.passed("fetch", f"{size} in {seconds:.1f} s, size and checksum verified")
    return replace(inputs, train=sample or inputs.train), sample


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
