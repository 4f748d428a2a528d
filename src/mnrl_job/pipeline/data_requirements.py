"""What settings require of the data and the workers."""

from mnrl_job.config.setting_types import Hardness
from mnrl_job.data.pairs import Pairs
from mnrl_job.errors import SettingsError


def check_batch_size(batch_size: int, workers: int) -> None:
    """Each worker needs a row of each global batch."""
    if batch_size < workers:
        raise SettingsError(
            f"MNRL_BATCH_SIZE={batch_size} is less than the {workers} workers; "
            f"set it to {workers} or more, or run fewer workers (MNRL_NUM_PROCESSES)"
        )


def check_hardness(hardness: Hardness | None, num_hard_negatives: int, pairs: Pairs) -> None:
    """Hard negatives can be weighted only if they are given or mined."""
    has_negatives = "negatives" in pairs.columns or num_hard_negatives > 0
    if hardness and hardness.mode == "hard_negatives" and not has_negatives:
        raise SettingsError(
            f"MNRL_HARDNESS={hardness}: the training pairs have no negatives; give some, mine some "
            f"(MNRL_NUM_HARD_NEGATIVES), or set MNRL_HARDNESS=in_batch_negatives:{hardness.strength:g}"
        )
