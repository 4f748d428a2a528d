"""The model card: training data, use, evaluation and limitations. It quotes no training text."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from mnrl_job.config.evaluation_settings import GENERAL_SEARCH
from mnrl_job.evaluation.general_guard import guard_summary
from mnrl_job.report.assumptions import assumptions
from mnrl_job.storage import is_hub_id
from mnrl_job.system.json_text import dumps

BODY = """
# {title}

This model maps texts to {dimension}-dimensional embeddings, to be compared by cosine similarity.
It was fine-tuned from `{base}` by mnrl-job with MultipleNegativesRankingLoss.

## Usage

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
queries = model.encode_query(["a question"])
documents = model.encode_document(["a passage", "another passage"])
scores = model.similarity(queries, documents)
```

{length} {prompts}{matryoshka}

## Evaluation

{evaluation}

## Training

{training}

## Limitations

{limits}
"""


def model_card(metrics: Mapping[str, Any]) -> str:
    """Render the card (README.md of the model folder) from the metrics of `metrics.json`."""
    model, run = metrics["model"], metrics["run"]
    max_length = model["max_seq_length"]
    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "loss:MultipleNegativesRankingLoss", "mnrl-job"],
        base_model=model["base"] if "/" in model["base"] and is_hub_id(model["base"]) else None,
        model_name=run["id"],
        eval_results=_eval_results(metrics),
    )
    body = BODY.format(
        title=run["id"],
        base=model["base"],
        dimension=model["embedding_dimension"],
        length=f"Texts are truncated at {max_length} tokens." if max_length else "Texts are not truncated.",
        prompts=_prompts(model["prompts"]),
        matryoshka=_matryoshka(metrics["training"]["matryoshka_dims"]),
        evaluation=_evaluation(metrics),
        training=_training(metrics),
        limits=_limits(metrics),
    )
    return f"---\n{data.to_yaml()}\n---\n{body}"


def _eval_results(metrics: Mapping[str, Any]) -> list[EvalResult] | None:
    results = [
        EvalResult("information-retrieval", "custom", name, metric, round(value, 4), metric_name=metric)
        for name, evaluation in metrics["evaluation"].items()
        for metric, value in evaluation["after"].items()
        if _is_shown(metric, metrics)
    ]
    return results or None


def _is_shown(metric: str, metrics: Mapping[str, Any]) -> bool:
    """Whether a metric has the cutoff of the primary metric."""
    return metric.rpartition("@")[2] == str(metrics["primary_metric"]["name"]).rpartition("@")[2]


def _evaluation(metrics: Mapping[str, Any]) -> str:
    if not metrics["evaluation"]:
        return "The model was not evaluated."
    lines = ["| eval set | metric | BM25 | before | after | gain | 95 % interval |", "|---|---|---|---|---|---|---|"]
    for name, evaluation in metrics["evaluation"].items():
        for metric in (metric for metric in evaluation["after"] if _is_shown(metric, metrics)):
            low, high = evaluation["confidence_interval"][metric]
            bm25 = f"{evaluation['bm25'][metric]:.4f}" if evaluation["bm25"] else "–"
            lines.append(
                f"| {name} | {metric} | {bm25} "
                f"| {evaluation['before'][metric]:.4f} | {evaluation['after'][metric]:.4f} "
                f"| {evaluation['delta'][metric]:+.4f} | {low:+.4f} to {high:+.4f} |"
            )
    return "\n".join(lines + _evaluation_by_dimension(metrics) + _general_search(metrics))


def _general_search(metrics: Mapping[str, Any]) -> list[str]:
    if summary := guard_summary(metrics["evaluation"]):
        return ["", f"`{GENERAL_SEARCH}` is bundled with mnrl-job and shows what training forgets; {summary}."]
    return []


def _evaluation_by_dimension(metrics: Mapping[str, Any]) -> list[str]:
    if not metrics["training"]["matryoshka_dims"]:
        return []
    metric = metrics["primary_metric"]["name"].rpartition(".")[2]
    lines = [
        "",
        "With truncated embeddings:",
        "",
        "| eval set | dimensions | metric | before | after |",
        "|---|---|---|---|---|",
    ]
    for name, evaluation in metrics["evaluation"].items():
        for dimension, truncated in evaluation["dimensions"].items():
            before, after = truncated["before"][metric], truncated["after"][metric]
            lines.append(f"| {name} | {dimension} | {metric} | {before:.4f} | {after:.4f} |")
    return lines


def _training(metrics: Mapping[str, Any]) -> str:
    data, training, packages = metrics["data"]["train"], metrics["training"], metrics["environment"]["packages"]
    sources = [
        f"- `{source['name']}`: {source['rows']} pairs, SHA-256 `{source['sha256']}`" for source in data["sources"]
    ]
    facts = [
        f"- {data['rows_used']} pairs, {training['epochs']} epoch(s), {training['steps']} steps of "
        f"{training['global_batch_size']} pairs, {training['negatives_per_anchor']} negatives per anchor",
        f"- loss `{training['loss']}`{_options(training)}",
        *_base(metrics["model"]),
        *_weights(training),
        f"- learning rate {training['learning_rate']:g}, precision {training['precision']}, "
        f"final loss {training['final_loss']:.4f}",
        "- " + ", ".join(f"{name} {version}" for name, version in packages.items()),
    ]
    return "\n".join(sources + facts)


def _limits(metrics: Mapping[str, Any]) -> str:
    eval_sets = ", ".join(f"`{name}`" for name in metrics["evaluation"])
    max_length = metrics["model"]["max_seq_length"]
    primary = metrics["primary_metric"]
    limits = [
        f"- Evaluated on {eval_sets}; its quality on other kinds of texts or in other languages is unknown."
        if eval_sets
        else "- Not evaluated; whether it is better than its base model is unknown.",
        "- Trained on the texts of its sources, with their errors and biases.",
        f"- The license and limitations of the base model, `{metrics['model']['base']}`, apply.",
    ]
    if primary and primary["saturated"]:
        limits.append(
            f"- The base model already had {primary['name']} {primary['before']:.4f}: this eval set cannot show a gain."
        )
    return "\n".join(limits + ([f"- Text beyond the first {max_length} tokens is ignored."] if max_length else []))


def _prompts(prompts: dict[str, str]) -> str:
    if not any(prompts.values()):
        return "The model was trained without prompts."
    query, document = (dumps(prompts[kind], ensure_ascii=False) for kind in ("query", "document"))
    return (
        f"The model was trained with the prompts `{query}` before each query and `{document}` before each document. "
        "`encode_query` and `encode_document` add them, `encode` and other programs do not."
    )


def _matryoshka(dimensions: list[int]) -> str:
    if not dimensions:
        return ""
    *others, last = map(str, dimensions)
    listed = f"{', '.join(others)} or {last}" if others else last
    return (
        f"\n\nIts embeddings can be truncated to the first {listed} dimensions "
        "([Matryoshka](https://arxiv.org/abs/2205.13147)) for less storage and faster search: load it with "
        f'`SentenceTransformer("path/to/this/folder", truncate_dim={last})`.'
    )


def _options(training: dict[str, Any]) -> str:
    options = [f", scale {training['scale']:g}"]
    if training["guide_model"]:
        options.append(f", guided by `{training['guide_model']}`")
    if training["hard_negatives"]:
        options.append(f", {training['hard_negatives']} mined hard negatives per pair")
    if training["hardness"]:
        options.append(f", hardness weighting `{training['hardness']}`")
    return "".join(options)


def _base(model: dict[str, Any]) -> list[str]:
    """The origin of the base model, and assumptions about it."""
    adapter = [f"- the base model was an adapter of `{model['adapter_of']}`, merged into it"] * bool(
        model["adapter_of"]
    )
    return adapter + [f"- assumed of the base model: {phrase}" for phrase in assumptions(model["assumed"])]


def _weights(training: dict[str, Any]) -> list[str]:
    """How the weights differ from those of plain fine-tuning."""
    alpha = training["weight_interpolation"]
    interpolation = f"- weights interpolated with the base model's: {alpha:g} trained, {1 - alpha:g} base (WiSE-FT)"
    if training["interpolation_points"]:
        interpolation += ", chosen on training pairs kept for it"
    lines = [interpolation] if alpha < 1 else []
    if training["lora_rank"] is None:
        return lines
    adapter = (
        f"- LoRA adapter of rank {training['lora_rank']} with {training['trainable_parameters']} parameters, merged "
        "into this model; `adapter/` of the run has it separately"
    )
    return [*lines, adapter]
