"""The `check` command: everything that can be known before GPU time is spent, each finding with its remedy."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mnrl_job.config.setting_types import Source
from mnrl_job.config.settings import Settings
from mnrl_job.data.disk_space import needed_bytes
from mnrl_job.data.evalset import EvalSet
from mnrl_job.data.inputs import LocatedInputs, fetch_inputs, locate_inputs
from mnrl_job.data.read_pairs import read_pairs
from mnrl_job.data.sources import ResolvedSource, locate, locate_model, meant
from mnrl_job.deduplication.orientation import Swapped, find_swapped
from mnrl_job.errors import SettingsError
from mnrl_job.launch.accelerate_config import check_accelerate_file
from mnrl_job.launch.exporters import check_exporters
from mnrl_job.launch.watchdog import WorkerTimeouts
from mnrl_job.launch.worker_task import WorkerTask
from mnrl_job.pipeline.check_model import check_model
from mnrl_job.pipeline.export import ask_exports
from mnrl_job.pipeline.findings import Findings
from mnrl_job.pipeline.inputs import check_eval_names, read_eval_sets
from mnrl_job.pipeline.prepare import prepare
from mnrl_job.pipeline.published import published_before
from mnrl_job.pipeline.tasks import worker_task
from mnrl_job.report.audit_page import audit_findings, with_lengths
from mnrl_job.runs.attempt import Attempt, attempt
from mnrl_job.storage.probe import probe, write_speed
from mnrl_job.system import machine
from mnrl_job.system.devices import Devices, describe_gpus, find_devices
from mnrl_job.system.finding import Finding
from mnrl_job.system.preemption import raise_on_signal
from mnrl_job.tracking.trackers import look_at


def check(settings: Settings, tell: Callable[[Finding], None]) -> tuple[tuple[Finding, ...], dict[str, Any] | None]:
    """Go through all checks, as far as the failed ones let us.

    Args:
        settings: already valid.
        tell: called with each finding as soon as it is there.

    Returns:
        The findings, and the content of `audit.json`, None where the data is unusable.
    """
    findings = Findings(tell)
    findings.passed("settings", "all valid")
    for finding in look_at(settings.report_to):
        findings.add(finding)
    with raise_on_signal(), attempt(settings) as place, machine.translate_disk_full(place.scratch):
        if place.nodes.is_first:
            audit = check_run(settings, place, findings)
        else:
            audit = None
            check_machine(settings, place, expect_inputs(settings, place, findings), findings)
    return tuple(findings.found), audit


def check_run(settings: Settings, place: Attempt, findings: Findings) -> dict[str, Any] | None:
    """Check everything. Returns the content of `audit.json`, None where the data is unusable."""
    speed = check_output(settings, place, findings)
    located = find_inputs(settings, findings)
    devices = check_machine(settings, place, located, findings)
    if not located or not devices:
        return None
    task_and_audit = check_data(settings, place, located, devices, findings)
    if task_and_audit is None:
        return None
    task, audit = task_and_audit
    audit = with_lengths(audit, check_model(task, devices, place.care, speed, findings))
    check_export(task, place.care, findings)
    return audit


def expect_inputs(settings: Settings, place: Attempt, findings: Findings) -> LocatedInputs | None:
    """Find the inputs that this node must have room for. What they hold is the same for all, so node 0 checks it."""
    with findings.checking("inputs"):
        located = locate_inputs(settings)
        findings.passed("inputs", f"found; this is node {place.nodes.rank}, node 0 checks data, model and output")
        return located
    return None


def check_output(settings: Settings, place: Attempt, findings: Findings) -> float | None:
    """Write, read, create and delete where the run will be. Returns bytes per second written, None where it failed."""
    with findings.checking("output"):
        store = place.store()
        if published_before(settings, place, store):
            remedy = "train would do nothing; choose another MNRL_RUN_ID to train again"
            findings.add(Finding("output", "warning", f"{place.run} is already published with these settings", remedy))
            return None
        enforces = probe(store)
        speed = write_speed(store)
        how = "conditional writes" if enforces else "no conditional writes, so attempts lock"
        findings.passed("output", f"{place.run}: can write, read and delete; {how}; {speed / 1e6:.0f} MB/s")
        return speed
    return None


def find_inputs(settings: Settings, findings: Findings) -> LocatedInputs | None:
    """Look for each input; None where one is missing."""
    style = settings.s3_addressing_style
    train = [
        _find(findings, settings, one, "MNRL_TRAIN_DATA")
        for one in meant(settings.train_data, "MNRL_TRAIN_DATA", style)
    ]
    evals = [
        _find(findings, settings, one, "MNRL_EVAL_DATA") for one in meant(settings.eval_data, "MNRL_EVAL_DATA", style)
    ]
    models = {"base model": settings.base_model} | (
        {"guide model": settings.guide_model} if settings.guide_model else {}
    )
    found: dict[str, ResolvedSource | None] = {}
    for check, name in models.items():
        with findings.checking(check):
            variable = f"MNRL_{check.replace(' ', '_').upper()}"
            model = found[check] = locate_model(name, settings.s3_addressing_style, variable)
            size = f"{model.bytes / 1e6:.0f} MB" if model else "a Hub id, loaded below"
            findings.passed(check, f"{name}: {size}")
    if not all((*train, *evals)) or found.keys() != models.keys():
        return None
    data = tuple(filter(None, train)), tuple(filter(None, evals))
    return LocatedInputs(*data, found["base model"], found.get("guide model"))


def _find(findings: Findings, settings: Settings, source: Source, variable: str) -> ResolvedSource | None:
    check = f"input {source.name}"
    with findings.checking(check):
        found = locate(source, variable, settings.s3_addressing_style)
        files = len(found.files) or len(found.entries)
        findings.passed(check, f"{found.uri}: {files} file(s), {found.bytes / 1e6:.1f} MB")
        return found
    return None


def check_machine(
    settings: Settings, place: Attempt, located: LocatedInputs | None, findings: Findings
) -> Devices | None:
    """Devices, disk, shared memory, user, caches. Returns the devices, None where the machine cannot do it."""
    devices = None
    with findings.checking("devices"):
        devices = find_devices(settings.num_processes, settings.min_gpus)
        findings.passed("devices", f"{describe_gpus()}; {devices.workers} worker(s)")
    if devices and settings.accelerate_config:
        with findings.checking("accelerate config"):
            check_accelerate_file(settings.accelerate_config, devices.workers, place.nodes)
            findings.passed("accelerate config", f"{settings.accelerate_config}: supported")
    if settings.export:
        with findings.checking("exporters"):
            check_exporters(settings.export)
            findings.passed("exporters", f"{', '.join(settings.export)}: installed and compatible")
    looked_at = [machine.shared_memory(devices)] if devices else []
    looked_at += [machine.user(), machine.caches()]
    looked_at += [machine.disk(place.scratch, needed_bytes(located, settings))] if located else []
    for finding in looked_at:
        findings.add(finding)
    return None if any(finding.status == "failed" for finding in looked_at) else devices


def check_data(
    settings: Settings, place: Attempt, located: LocatedInputs, devices: Devices, findings: Findings
) -> tuple[WorkerTask, dict[str, Any]] | None:
    """Fetch, read and prepare everything as `train` does.

    Returns:
        What the workers would be told, and the audit; None where the data is unusable.
    """
    with findings.checking("data"):
        began = time.perf_counter()
        inputs = fetch_inputs(located, place.inputs, settings)
        if located.remote_bytes:
            took = time.perf_counter() - began
            findings.passed("fetch", f"{located.remote_bytes / 1e6:.1f} MB in {took:.1f} s, size and checksum verified")
        eval_sets = read_eval_sets(inputs, place.scratch, settings.max_bad_row_ratio)
        read = read_pairs(inputs.train, settings, place.scratch / "pairs.arrow")
        rejected = f"{sum(read.rejected.values())} rejected"
        filtered = f", {read.filtered} excluded by MNRL_ROW_FILTER" if read.filtered else ""
        findings.passed("rows", f"{read.rows} pairs from {read.rows_read} rows, {rejected}{filtered}")
        for swapped in find_swapped(read, eval_sets):
            findings.add(swapped_columns(swapped))
        prepared = None
        with findings.checking("batches", SettingsError):
            prepared = prepare(settings, place, read, eval_sets, place.nodes.max_nodes * devices.workers)
            for one in prepared.eval_sets:
                findings.passed(f"eval set {one.name}", told_of(one))
            for finding in audit_findings(prepared.audit):
                findings.add(finding)
        if prepared:
            check_eval_names(settings, prepared.eval_sets)
            task = worker_task(settings, place, inputs, prepared.eval_sets, prepared.pairs, prepared.batching)
            return task, prepared.audit
    return None


def told_of(eval_set: EvalSet) -> str:
    """How large an eval set is, and what is left out of it."""
    told = f"{eval_set.queries} queries over {eval_set.documents} documents"
    if eval_set.own_documents:
        told += f"; {eval_set.own_documents} queries are also in the corpus, and excluded from their own rankings"
    rejected = sum(eval_set.rejected.values())
    return told + (f"; {rejected} rows rejected" if rejected else "")


def swapped_columns(found: Swapped) -> Finding:
    """Why the anchors and positives of a source may be swapped, and what to set then."""
    told = (
        f"{found.source.name}: anchors and positives may be swapped: the median length is {found.anchor_characters} "
        f"characters for anchors and {found.positive_characters} for positives"
    )
    if found.likeness is not None:
        told += f", and in {found.likeness:.0%} of the rows the positive is more like the eval queries than the anchor"
    anchor, positive = (found.source.columns.get(role, role) for role in ("anchor", "positive"))
    remedy = f"if so, set MNRL_ANCHOR_COLUMN={positive} and MNRL_POSITIVE_COLUMN={anchor}"
    return Finding("columns", "warning", told, remedy)


def check_export(task: WorkerTask, care: WorkerTimeouts, findings: Findings) -> None:
    """Export the base model as the trained one will be, where that is asked for and nothing failed before."""
    if not task.settings["export"] or any(one.status == "failed" for one in findings.found):
        return
    with findings.checking("export"):
        began = time.perf_counter()
        tried = ask_exports(replace(task, eval_sets=()), care)
        told = ", ".join(f"{each.format} {sum(each.files.values()) / 1e6:.0f} MB" for each in tried)
        findings.passed("export", f"the base model can be exported: {told}; took {time.perf_counter() - began:.0f} s")
