"""The `check` command: everything that can be known before GPU time is spent, each finding with its remedy."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from mnrl_job.errors import JobError, Preempted, SettingsError
from mnrl_job.groundwork import ask_exports, check_eval_names, published_before, read_eval_sets, worker_task
from mnrl_job.inputs.collect import LocatedInputs, fetch_inputs, locate_inputs
from mnrl_job.inputs.fetch import Located, locate, locate_model, meant
from mnrl_job.inputs.pairs import read_pairs
from mnrl_job.inputs.room import needed_bytes
from mnrl_job.outputs.audit_page import audit_findings, with_lengths
from mnrl_job.preparation.orientation import Swapped, find_swapped
from mnrl_job.prepare import prepare
from mnrl_job.records import EvalSet, Finding, Rehearsal, TokenLengths, WorkerTask
from mnrl_job.runtime import machine
from mnrl_job.runtime.accelerate_file import check_accelerate_file
from mnrl_job.runtime.attempt import Attempt, attempt
from mnrl_job.runtime.devices import Devices, describe_gpus, find_devices
from mnrl_job.runtime.exporters import check_exporters
from mnrl_job.runtime.launch import ask_workers
from mnrl_job.runtime.stopping import stop_on_request
from mnrl_job.runtime.storage.probe import probe, write_speed
from mnrl_job.runtime.watch import Care
from mnrl_job.setting_types import Every, Source
from mnrl_job.settings import Settings
from mnrl_job.tracking.trackers import look_at

# Weights and the two moments of Adam, in fp32.
CHECKPOINT_BYTES_PER_PARAMETER = 12


@dataclass(slots=True)
class Findings:
    """The findings so far, each told as it comes. A check that needs a failed one's answer is left out."""

    tell: Callable[[Finding], None]
    found: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        self.found.append(finding)
        self.tell(finding)

    def passed(self, check: str, detail: str) -> None:
        self.add(Finding(check, "passed", detail))

    @contextmanager
    def checking(self, check: str, errors: type[JobError] = JobError) -> Iterator[None]:
        """Such an error inside is the finding that this check failed; its message ends with what helps.

        Raises:
            Preempted: the check was stopped on request, which says nothing about what it looked at.
        """
        try:
            yield
        except Preempted:
            raise
        except errors as error:
            detail, _, remedy = str(error).rpartition("; ")
            self.add(Finding(check, "failed", detail or remedy, remedy if detail else "", error.kind))


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
    with stop_on_request(), attempt(settings) as place, machine.told_if_full(place.scratch):
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
    found: dict[str, Located | None] = {}
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


def _find(findings: Findings, settings: Settings, source: Source, variable: str) -> Located | None:
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


def check_model(
    task: WorkerTask, devices: Devices, care: Care, speed: float | None, findings: Findings
) -> TokenLengths | None:
    """Load the model and train a few steps for the clock; tell how long all of it will take.

    Returns:
        How long the training texts are, None where the model fails or does not count tokens.
    """
    steps = task.batching.steps if task.batching else 0
    with findings.checking("model"):
        began = time.perf_counter()
        seen = ask_workers("rehearse", task, devices, care, "rehearsal.json", Rehearsal)
        loading = time.perf_counter() - began - seen.seconds
        findings.passed(
            "model",
            f"loads and trains on {seen.device} with torch {seen.torch}: "
            f"{seen.parameters / 1e6:.1f} million parameters, peak memory {seen.peak_memory_bytes / 1e9:.1f} GB",
        )
        findings.passed("expected time", expected_time(task, steps, seen, 2 * loading))
        if speed:
            findings.add(grace(seen.trainable_parameters * CHECKPOINT_BYTES_PER_PARAMETER, speed, care.grace_seconds))
        return seen.lengths
    return None


def expected_time(task: WorkerTask, steps: int, seen: Rehearsal, starting: float) -> str:
    """How long the run will take, and what of it, in words."""
    settings = Settings.model_validate(task.settings)
    evaluations = 2 + scores_while(steps, seen.step_seconds, settings.eval_interval)
    mining = minings(settings) * embedding_seconds(task, seen.evaluation_seconds)
    total = starting + evaluations * seen.evaluation_seconds + steps * seen.step_seconds + mining
    told = (
        f"about {_duration(total)}: {steps} steps of {seen.step_seconds:.2f} s, {evaluations} evaluations of "
        f"{seen.evaluation_seconds:.1f} s, start-up {starting:.0f} s"
    )
    return told + (f", mining {mining:.0f} s" if mining else "")


def check_export(task: WorkerTask, care: Care, findings: Findings) -> None:
    """Export the base model as the trained one will be, where that is asked for and nothing failed before."""
    if not task.settings["export"] or any(one.status == "failed" for one in findings.found):
        return
    with findings.checking("export"):
        began = time.perf_counter()
        tried = ask_exports(replace(task, eval_sets=()), care)
        told = ", ".join(f"{each.format} {sum(each.files.values()) / 1e6:.0f} MB" for each in tried)
        findings.passed("export", f"the base model can be exported: {told}; took {time.perf_counter() - began:.0f} s")


def scores_while(steps: int, step_seconds: float, every: Every | None) -> int:
    """How often the model is scored while it trains, if patience does not end it."""
    if every is None:
        return 0
    between = every.steps or max(1, int((every.seconds or 0) / step_seconds))
    return -(-steps // between)


def minings(settings: Settings) -> int:
    """How often hard negatives are mined."""
    return settings.epochs if settings.mines_each_epoch else int(settings.num_hard_negatives > 0)


def embedding_seconds(task: WorkerTask, evaluation_seconds: float) -> float:
    """How long embedding all training pairs would take, as fast as the texts of the eval sets."""
    texts = sum(one.queries + one.documents for one in task.eval_sets)
    return 2 * task.pairs.rows * evaluation_seconds / texts if task.pairs and texts else 0.0


def grace(size: int, speed: float, period: float) -> Finding:
    """How many checkpoints of `size` bytes can be uploaded between SIGTERM and SIGKILL."""
    seconds = size / speed
    fit = int(period / seconds)
    told = f"uploading a checkpoint ({size / 1e6:.0f} MB) takes {seconds:.1f} s; {fit} fit into {period:g} s"
    if fit < 1:
        enough = round(2 * seconds + period)
        remedy = f"set terminationGracePeriodSeconds (docker stop -t) and MNRL_GRACE_PERIOD to at least {enough} s"
        return Finding("grace period", "warning", told, remedy)
    return Finding("grace period", "passed", told)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
