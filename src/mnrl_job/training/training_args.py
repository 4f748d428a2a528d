"""What the library's trainer is told."""

from pathlib import Path

from accelerate import PartialState
from sentence_transformers import SentenceTransformerTrainingArguments

from mnrl_job.batching.planning import Plan
from mnrl_job.config.settings import Settings
from mnrl_job.embedding.precision import Precision
from mnrl_job.training.fsdp import is_sharded

# Processes that make batches ready while a GPU computes; a CPU has no time that is not its own.
LOADERS = 2


def trainer_arguments(
    settings: Settings, plan: Plan, precision: Precision, folder: Path
) -> SentenceTransformerTrainingArguments:
    state = PartialState()
    on_gpu = state.device.type == "cuda"
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        # `PlannedBatches` shares it; a share would differ, and be told, where a run resumes on other workers.
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        # Rounded down: a run too short for a whole step of warm-up must not spend its first step at rate 0.
        warmup_steps=int(settings.warmup_ratio * len(plan)),
        weight_decay=settings.weight_decay,
        lr_scheduler_type=settings.lr_scheduler,
        seed=settings.seed,
        # `training_step` sees to bf16, unless weights are gathered in it; fp16 needs the trainer to scale the loss.
        bf16=precision == "bf16" and is_sharded(),
        fp16=precision == "fp16",
        use_cpu=not on_gpu,
        accelerator_config={"use_configured_state": True, "non_blocking": on_gpu},
        dataloader_drop_last=True,
        dataloader_pin_memory=on_gpu,
        # Other processes would make batches ready with the negatives of the epoch before.
        dataloader_num_workers=LOADERS if on_gpu and not settings.mines_every_epoch else 0,
        logging_steps=log_interval(len(plan)),
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="no",  # `Checkpoints` says when
        save_total_limit=2,
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def log_interval(steps: int) -> int:
    """Steps between two log lines: every step of a short run, about a thousand lines of a long one."""
    return max(1, steps // 1000)
