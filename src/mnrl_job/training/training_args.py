"""The arguments of the library's trainer."""

from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from sentence_transformers import SentenceTransformerTrainingArguments

from mnrl_job.batching.planning import Plan
from mnrl_job.embedding.precision import Precision
from mnrl_job.training.fsdp import is_sharded

# Processes per GPU that tokenize and collate batches, each one batch ahead; on a CPU they would compete with training.
LOADER_PROCESSES = 4


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """AdamW and its schedule; warm-up takes `warmup_ratio` of the steps."""

    learning_rate: float
    warmup_ratio: float
    weight_decay: float
    lr_scheduler: str


def training_args(
    optimizer: OptimizerConfig, plan: Plan, precision: Precision, seed: int, folder: Path, prefetch: bool
) -> SentenceTransformerTrainingArguments:
    """The arguments of `PlannedTrainer` for a plan of shape (steps, batch size); checkpoints are written to `folder`.

    `prefetch`: processes may tokenize and collate batches ahead; they do not see negatives mined in later epochs.
    """
    on_gpu = PartialState().device.type == "cuda"
    loaders = LOADER_PROCESSES if on_gpu and prefetch else 0
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        # The global batch size: `PlannedBatches` splits it. A per-rank size would cause a warning when a run resumes
        # with another number of workers.
        per_device_train_batch_size=plan.shape[1],
        learning_rate=optimizer.learning_rate,
        # Rounded down: a run too short for a full step of warm-up must not spend its first step at learning rate 0.
        warmup_steps=int(optimizer.warmup_ratio * len(plan)),
        weight_decay=optimizer.weight_decay,
        lr_scheduler_type=optimizer.lr_scheduler,
        seed=seed,
        # `step_context` handles bf16, unless FSDP gathers weights in it; fp16 needs the trainer to scale the loss.
        bf16=precision == "bf16" and is_sharded(),
        fp16=precision == "fp16",
        use_cpu=not on_gpu,
        accelerator_config={"use_configured_state": True, "non_blocking": on_gpu},
        dataloader_drop_last=True,
        dataloader_pin_memory=on_gpu,
        dataloader_num_workers=loaders,
        dataloader_prefetch_factor=1 if loaders else None,
        logging_steps=log_interval(len(plan)),
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="no",  # `Checkpoints` requests saves
        save_total_limit=2,
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def log_interval(steps: int) -> int:
    """Steps between two log lines: every step of a short run, about a thousand lines of a long one."""
    return max(1, steps // 1000)
