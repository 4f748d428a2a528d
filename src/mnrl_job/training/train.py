"""A training from start to end: the trainer's loop, what it is held to afterwards, and what it came to."""

import math
from collections.abc import Callable
from pathlib import Path

from sentence_transformers import SentenceTransformer

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.settings import Settings
from mnrl_job.data.integer_sets import distinct_dense
from mnrl_job.data.pairs import Pairs
from mnrl_job.errors import InternalError, Preempted
from mnrl_job.tracking.run import tracked_run
from mnrl_job.training.callbacks.checkpoints import CheckpointSpec
from mnrl_job.training.callbacks.tracking import report_to
from mnrl_job.training.data_order_digest import data_order_digest
from mnrl_job.training.lora import ADAPTER, write_adapter
from mnrl_job.training.results import Training
from mnrl_job.training.trainer import PlannedTrainer


def train(
    model: SentenceTransformer,
    settings: Settings,
    pairs: Pairs,
    batching: BatchPlan,
    scratch: Path,
    staging: Path,
    keeping: CheckpointSpec | None = None,
    score: Callable[[], float] | None = None,
) -> Training:
    """Fine-tune `model` in place with MultipleNegativesRankingLoss over the global batch.

    With LoRA it is given an adapter, which alone is trained; `training.lora.merged` makes a plain model of it.

    The loss is that of Henderson et al. 2017 (arXiv 1705.00652), section 4.4, on scaled cosine similarities.

    Args:
        model: trained in place, the same on every rank afterwards.
        settings: the run's.
        pairs: the training pairs as an Arrow file.
        batching: the labels of the pairs, and the plan: which rows meet in which step.
        scratch: folder for the trainer's own files; for the guided loss the guide's embeddings are there.
        staging: folder where the first rank writes `training_log.jsonl`.
        keeping: what checkpoints are made of, and the one to go on from; None to make none.
        score: what `MNRL_EVAL_INTERVAL` asks for; higher is better. The model ends with the weights that scored best.

    Raises:
        Preempted: a stop was asked for; a checkpoint is saved.
        Diverged: the loss became NaN or infinite, or exploded.
        EnvironmentFailure: the precision wanted is not to be had here.
        SettingsError: layers are to be checkpointed or adapted, and the model has none of the kind.
        InternalError: the rows trained on are not those of the plan.
    """
    trainer = PlannedTrainer(model, settings, pairs, batching, scratch, staging, keeping, score)
    loss, progress, best = trainer.global_loss, trainer.progress, trainer.best
    with report_to(trainer, settings.report_to, tracked_run(settings, scratch, staging)):
        trainer.train(resume_from_checkpoint=str(keeping.resume) if keeping and keeping.resume else None)
    reached, plan = trainer.state.global_step, trainer.plan
    if reached < len(plan) and not (best and best.patience_exhausted):
        raise Preempted(f"stopped on request after step {reached} of {len(plan)}")
    plan = plan[:reached]
    # For fp16 it wraps the model's forward pass, which evaluation and saving must see as it was.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    if progress.digest != data_order_digest(plan):
        raise InternalError(
            f"the rows trained on (digest {progress.digest}) are not the planned ones ({data_order_digest(plan)})"
        )
    if best:
        best.restore()
    if settings.lora_rank:
        write_adapter(model, settings.base_model, staging / ADAPTER)
    totals = trainer.totals()
    return Training(
        steps=len(plan),
        rows_used=len(distinct_dense(plan)),
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
        hard_negative_mining=trainer.negatives.mining_rounds if trainer.negatives else (),
        collapse=progress.collapse(best.best.step if best else reached),
    )
