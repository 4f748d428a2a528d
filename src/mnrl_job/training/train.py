"""A training from start to end: run the trainer, check what it trained on, and return the result."""

import math
from collections.abc import Callable

from sentence_transformers import SentenceTransformer

from mnrl_job.config.settings import Settings
from mnrl_job.data.integer_sets import distinct_dense
from mnrl_job.errors import InternalError, Preempted
from mnrl_job.system.logs import log
from mnrl_job.tracking.run import tracked_run
from mnrl_job.training.callbacks.checkpoints import CheckpointSpec
from mnrl_job.training.callbacks.tracking import report_to
from mnrl_job.training.data_order_digest import data_order_digest
from mnrl_job.training.inputs import AttemptFolders, TrainingData
from mnrl_job.training.results import Training
from mnrl_job.training.trainer import PlannedTrainer


def train(
    model: SentenceTransformer,
    settings: Settings,
    data: TrainingData,
    folders: AttemptFolders,
    checkpoint_spec: CheckpointSpec | None = None,
    score: Callable[[], float] | None = None,
) -> Training:
    """Fine-tune `model` in place with MultipleNegativesRankingLoss over the global batch.

    With LoRA an adapter is added to the model and only the adapter is trained; `training.lora.merged` returns a plain
    model. The loss is that of Henderson et al. 2017 (arXiv 1705.00652), section 4.4, on scaled cosine similarities.

    Args:
        model: trained in place, the same on every rank afterwards.
        settings: of the run.
        data: the training pairs and the batch plan.
        folders: scratch holds the trainer's files, and for the guided loss the guide's embeddings; the first rank
            writes `training_log.jsonl` to staging.
        checkpoint_spec: what checkpoints contain, and the one to resume from; None for no checkpoints.
        score: evaluates the model for `MNRL_EVAL_INTERVAL`; higher is better. The model ends with the best weights.

    Raises:
        Preempted: the run was asked to stop; a checkpoint is saved.
        Diverged: the loss became NaN or infinite, or exploded.
        EnvironmentFailure: the device does not support the precision.
        SettingsError: the model has no layers for gradient checkpointing or LoRA.
        InternalError: the rows trained on are not those of the plan.
    """
    trainer = PlannedTrainer(model, settings, data, folders, checkpoint_spec, score)
    loss, progress, best = trainer.global_loss, trainer.progress, trainer.best
    resume = checkpoint_spec.resume if checkpoint_spec else None
    if settings.learning_rate == "auto":
        log(f"learning rate {trainer.learning_rate:g}, see MNRL_LEARNING_RATE")
    with report_to(trainer, settings.report_to, tracked_run(settings, folders.scratch, folders.staging)):
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    last_step, plan = trainer.state.global_step, trainer.plan
    if last_step < len(plan) and not (best and best.patience_exhausted):
        raise Preempted(f"stopped on request after step {last_step} of {len(plan)}")
    plan = plan[:last_step]
    # No row is used twice in an epoch.
    rows_used = plan.size if last_step <= [*trainer.epochs, last_step][1] else len(distinct_dense(plan))
    # For fp16 accelerate wraps the forward pass; evaluation and saving need the plain model.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    if progress.digest != data_order_digest(plan):
        raise InternalError(
            f"the rows trained on (digest {progress.digest}) are not the planned ones ({data_order_digest(plan)})"
        )
    if best:
        best.restore()
    totals = trainer.totals()
    return Training(
        steps=len(plan),
        learning_rate=trainer.learning_rate,
        rows_used=rows_used,
        rows_digest=progress.digest,
        final_loss=progress.loss,
        negatives_per_anchor=round(totals.negatives / plan.size),
        masked_per_anchor=totals.masked / plan.size,
        precision=trainer.precision,
        seconds=totals.seconds,
        seconds_waited=totals.seconds_waited,
        tokens=totals.tokens,
        padded_tokens=totals.padded_tokens,
        activation_recompute=math.isfinite(loss.activation_token_budget),
        trainable_parameters=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        scores=best.scores if best else (),
        best_step=best.best.step if best else None,
        hard_negative_mining=trainer.negatives.rounds if trainer.negatives else (),
        collapse=progress.collapse(best.best.step if best else last_step),
    )
