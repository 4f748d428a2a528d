"""What a sample of the training data says about all of it, and how certain that is."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from mnrl_job.batching.planning import batches_by_source
from mnrl_job.config.settings import Settings
from mnrl_job.data.file_formats.common import BadRow
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.row_counts import LOGGED_BAD_ROWS, count_reasons, sufficient_ratio
from mnrl_job.data.sample import SampledSource
from mnrl_job.data.sample_file import BLOCK_ROWS
from mnrl_job.errors import DataError
from mnrl_job.pipeline.plan_batches import refuse_large_batch
from mnrl_job.pipeline.predictions import Workload
from mnrl_job.pipeline.preparation import plan_config
from mnrl_job.pipeline.prepared import Prepared
from mnrl_job.report.highlights import describe_lengths
from mnrl_job.system.finding import Finding
from mnrl_job.system.logs import warn
from mnrl_job.system.quantities import file_size, plural
from mnrl_job.training.results import TokenLengths

SAMPLED_ROWS = 200_000
# A sample has at least so many batches, for the trial run.
MIN_BATCHES = 4
# Standard deviations of a 95 % interval.
Z = 1.96


def sampled_rows(settings: Settings) -> int:
    return max(SAMPLED_ROWS, MIN_BATCHES * settings.batch_size)


def describe_sample(sources: Sequence[SampledSource]) -> str:
    files = [file for source in sources for file in source.sampled.values()]
    beginnings = sum(file.is_beginning for file in files)
    return (
        f"of about {sum(source.rows for source in sources)} rows a sample is checked: "
        f"{file_size(sum(file.read for file in files))} from {sum(len(file.lines) for file in files)} places in "
        f"{len(files)} of {plural(sum(source.files_in_all for source in sources), 'file')}"
        + (f", of {beginnings} of them only the beginning" if beginnings else "")
        + "; counts are of the sample, where they are not said to be of all; --full reads all rows"
    )


def check_bad_rows(pairs: Pairs, max_bad_row_ratio: float) -> Finding:
    """The unusable rows of a sample, and their share in all rows.

    Raises:
        DataError: it is certainly larger than allowed.
    """
    bad, selected = sum(pairs.rejected.values()), pairs.rows_read - pairs.filtered
    low, high = wilson_interval(bad / selected, effective_rows(selected, bad / selected, pairs.bad_rows))
    share = f"{percent(low)} to {percent(high)} of all rows (95 %)"
    if not bad:
        in_runs = wilson_interval(0, max(1, selected // BLOCK_ROWS))[1]
        share = f"at most {percent(high)} of all rows (95 %), {percent(in_runs)} if they come in runs"
    filtered = f", {pairs.filtered} excluded by MNRL_ROW_FILTER" if pairs.filtered else ""
    detail = f"{pairs.rows} pairs from {pairs.rows_read} sampled rows{filtered}, {bad} rejected: {share}"
    if low <= max_bad_row_ratio or not bad:
        is_unsure = bad and high > max_bad_row_ratio
        remedy = f"MNRL_MAX_BAD_ROW_RATIO={max_bad_row_ratio:g} may be exceeded; count them with --full"
        return Finding("rows", "warning" if is_unsure else "passed", detail, remedy if is_unsure else "")
    first, *others = pairs.bad_rows
    for row in pairs.bad_rows[:LOGGED_BAD_ROWS] if others else ():
        warn(f"unusable row: {row.where}: {row.reason} ({row.detail})")
    raise DataError(
        f"{first.where}: {first.reason} ({first.detail}); {bad} of {selected} sampled rows are unusable "
        f"({count_reasons(pairs.rejected)}), {share}, more than MNRL_MAX_BAD_ROW_RATIO={max_bad_row_ratio:g} allows; "
        f"fix them, or set MNRL_MAX_BAD_ROW_RATIO={sufficient_ratio(math.ceil(high * 1e9), 10**9):g} to skip them"
    )


def wilson_interval(share: float, rows: float) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    weight = Z**2 / rows
    center, width = share + weight / 2, math.sqrt(weight * share * (1 - share) + weight**2 / 4)
    return max(0.0, (center - width) / (1 + weight)), min(1.0, (center + width) / (1 + weight))


def effective_rows(rows: int, share: float, bad_rows: Sequence[BadRow]) -> float:
    """So many independent rows would say as much (Kish 1965), by the first bad rows: those of a block are alike."""
    if not 0 < share < 1:
        return rows
    in_block = Counter(map(_block_of, bad_rows)).values()
    expected, seen = share * BLOCK_ROWS, sum(count**2 for count in in_block) / len(bad_rows)
    return rows / max(1.0, (seen - expected) / (1 - share))


def _block_of(bad_row: BadRow) -> str:
    """Blocks in the middle of a file have one position; rows with a number are divided as the blocks are."""
    file, _, line = bad_row.where.rpartition(":")
    return f"{file}:{int(line) // BLOCK_ROWS}" if line.isdecimal() else bad_row.where


def for_trial(settings: Settings, pairs: Pairs) -> tuple[Settings, Pairs]:
    """Settings and pairs that a sample can be planned with: as one source, and with a batch that it can fill."""
    batch_size = min(settings.batch_size, max(1, pairs.rows // MIN_BATCHES))
    if batch_size < settings.batch_size:
        warn(
            f"the sample fills batches of {batch_size} pairs only: time and memory of a step are those of such a batch"
        )
    merged = replace(pairs.sources[0], rows=pairs.rows, weight=None)
    return settings.model_copy(update={"batch_size": batch_size}), replace(pairs, sources=(merged,))


def estimate_workload(
    settings: Settings, sample: Sequence[SampledSource], pairs: Pairs, prepared: Prepared, seconds: float
) -> tuple[Workload, dict[str, Any]]:
    """The whole by its sample, which took so many seconds to read and prepare, and the audit with the whole's batches.

    Raises:
        SettingsError: all of the data cannot fill a batch.
    """
    usable = 1 - prepared.audit["rows_removed_as_leaked"] / pairs.rows
    sources = tuple(
        replace(record, rows=round(usable * record.rows * source.rows / max(1, record.rows_read)))
        for source, record in zip(sample, pairs.sources, strict=True)
    )
    refuse_large_batch(sources, settings.batch_size)
    counts = batches_by_source(plan_config(settings, replace(prepared.pairs, sources=sources)))
    rows = sum(source.rows for source in sample)
    scale = rows / pairs.rows_read
    steps = settings.epochs * sum(counts)
    work = Workload(
        pairs=sum(source.rows for source in sources) - prepared.audit["rows_held_out"],
        text_bytes=scale * pairs.path.stat().st_size,
        steps=min(steps, settings.max_steps or steps),
        prepare_seconds=scale * seconds,
        is_sampled=True,
    )
    batches = {
        "batch_size": settings.batch_size,
        "batches_an_epoch": {source.name: count for source, count in zip(sources, counts, strict=True)},
        "rows_used_an_epoch": round(sum(counts) * settings.batch_size / scale),
    }
    audit = {
        "sample": {"rows": pairs.rows_read, "rows_in_all": rows, "pairs_in_all": work.pairs},
        "sources": [asdict(source) for source in sources],
        "batches": prepared.audit["batches"] | batches,
    }
    return work, prepared.audit | audit


def truncation_findings(lengths: TokenLengths) -> Iterator[Finding]:
    """The share of truncated texts in all rows."""
    for name, column in lengths.columns.items():
        low, high = wilson_interval(column["truncated"], lengths.rows)
        detail = f"{percent(low)} to {percent(high)} of all {name} texts are truncated (95 %)"
        yield Finding(f"{name} tokens", "passed", f"{detail}; {describe_lengths(column)} tokens in the sample")


def percent(share: float) -> str:
    """With two significant digits."""
    return f"{np.format_float_positional(100 * share, 2, fractional=False, trim='-')} %"
