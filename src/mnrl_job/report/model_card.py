"""The model card: what the model was trained on and how well it does. It quotes no training text."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from mnrl_job.launch.exporters import LOADING
from mnrl_job.report.assumptions import assumptions
from mnrl_job.storage import is_hub_id
from mnrl_job.system.json_text import dumps

BODY = """
# {title}

Maps texts to {dimension}-dimensional vectors; texts that belong together lie close by cosine similarity. Fine-tuned
from `{base}` by mnrl-job with MultipleNegativesRankingLoss.

## Use

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
queries = model.encode_query(["a question"])
documents = model.encode_document(["a passage", "another passage"])
scores = model.similarity(queries, documents)
```

{length} {prompts}{shorter}{exports}

## How good it is

{evaluation}

## How it was trained

{training}

## Limits

{limits}
"""


def model_card(content: Mapping[str, Any]) -> str:
    """Render the card (README.md of the model folder) from the content of `metrics.json`."""
    model, run = content["model"], content["run"]
    cut = model["max_seq_length"]
    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "loss:MultipleNegativesRankingLoss", "mnrl-job"],
        base_model=model["base"] if "/" in model["base"] and is_hub_id(model["base"]) else None,
        model_name=run["id"],
        eval_results=_eval_results(content),
    )
    body = BODY.format(
        title=run["id"],
        base=model["base"],
        dimension=model["embedding_dimension"],
        length=f"Texts are cut at {cut} tokens." if cut else "Texts are read whole.",
        prompts=_prompts(model["prompts"]),
        shorter=_shorter(content["training"]["matryoshka_dims"]),
        exports=_exports(content),
        evaluation=_evaluation(content),
        training=_training(content),
        limits=_limits(content),
    )
    return f"---\n{data.to_yaml()}\n---\n{body}"


def _eval_results(content: Mapping[str, Any]) -> list[EvalResult] | None:
    results = [
        EvalResult("information-retrieval", "custom", name, metric, round(value, 4), metric_name=metric)
        for name, one in content["evaluation"].items()
        for metric, value in one["after"].items()
        if _is_shown(metric, content)
    ]
    return results or None


def _is_shown(metric: str, content: Mapping[str, Any]) -> bool:
    """Those that look as far into the ranking as the primary metric."""
    return metric.rpartition("@")[2] == str(content["primary_metric"]["name"]).rpartition("@")[2]


def _evaluation(content: Mapping[str, Any]) -> str:
    lines = ["| eval set | metric | BM25 | before | after | gain | 95 % interval |", "|---|---|---|---|---|---|---|"]
    for name, one in content["evaluation"].items():
        for metric in (metric for metric in one["after"] if _is_shown(metric, content)):
            low, high = one["confidence_interval"][metric]
            words = f"{one['bm25'][metric]:.4f}" if one["bm25"] else "–"
            lines.append(
                f"| {name} | {metric} | {words} "
                f"| {one['before'][metric]:.4f} | {one['after'][metric]:.4f} "
                f"| {one['delta'][metric]:+.4f} | {low:+.4f} to {high:+.4f} |"
            )
    return "\n".join(lines + _evaluation_by_dimension(content)) if content["evaluation"] else "It was not evaluated."


def _evaluation_by_dimension(content: Mapping[str, Any]) -> list[str]:
    if not content["training"]["matryoshka_dims"]:
        return []
    metric = content["primary_metric"]["name"].rpartition(".")[2]
    lines = [
        "",
        "With vectors cut:",
        "",
        "| eval set | dimensions | metric | before | after |",
        "|---|---|---|---|---|",
    ]
    for name, evaluation in content["evaluation"].items():
        for dimension, one in evaluation["dimensions"].items():
            before, after = one["before"][metric], one["after"][metric]
            lines.append(f"| {name} | {dimension} | {metric} | {before:.4f} | {after:.4f} |")
    return lines


def _training(content: Mapping[str, Any]) -> str:
    data, training, packages = content["data"]["train"], content["training"], content["environment"]["packages"]
    sources = [f"- `{one['name']}`: {one['rows']} pairs, SHA-256 `{one['sha256']}`" for one in data["sources"]]
    facts = [
        f"- {data['rows_used']} pairs, {training['epochs']} epoch(s), {training['steps']} steps of "
        f"{training['global_batch_size']} pairs, {training['negatives_per_anchor']} negatives for each anchor",
        f"- loss `{training['loss']}`{_options(training)}",
        *_base(content["model"]),
        *_adapter(training),
        f"- learning rate {training['learning_rate']:g}, precision {training['precision']}, "
        f"final loss {training['final_loss']:.4f}",
        "- " + ", ".join(f"{name} {version}" for name, version in packages.items()),
    ]
    return "\n".join(sources + facts)


def _limits(content: Mapping[str, Any]) -> str:
    """What nobody should take for granted."""
    measured = ", ".join(f"`{name}`" for name in content["evaluation"])
    cut = content["model"]["max_seq_length"]
    primary = content["primary_metric"]
    limits = [
        f"- It was measured on {measured}; what it does on other kinds of texts or in other languages is not known."
        if measured
        else "- It was not measured on anything; whether it is better than its base model is not known.",
        "- It was trained to rank the texts of its sources; what is wrong or one-sided in them, it has learned, too.",
        f"- License and limits of the base model, `{content['model']['base']}`, go on to hold.",
    ]
    if primary and primary["saturated"]:
        limits.append(
            f"- Its base model already had {primary['name']} {primary['before']:.4f}: this eval set cannot show a gain."
        )
    return "\n".join(
        limits + ([f"- What stands behind the first {cut} tokens of a text, it does not see."] if cut else [])
    )


def _prompts(prompts: dict[str, str]) -> str:
    if not any(prompts.values()):
        return "It was trained without prompts."
    query, document = (dumps(prompts[kind], ensure_ascii=False) for kind in ("query", "document"))
    return (
        f"It was trained with the prompts `{query}` before each query and `{document}` before each document: "
        "`encode_query` and `encode_document` put them there, `encode` and other programs do not."
    )


def _shorter(dimensions: list[int]) -> str:
    if not dimensions:
        return ""
    *others, last = map(str, dimensions)
    either = f"{', '.join(others)} or {last}" if others else last
    return (
        f"\n\nIt was trained so that the first {either} numbers of a vector serve by themselves "
        "([Matryoshka](https://arxiv.org/abs/2205.13147)), for less storage and faster search: load it with "
        f'`SentenceTransformer("path/to/this/folder", truncate_dim={last})`.'
    )


def _exports(content: Mapping[str, Any]) -> str:
    """How to load the other formats, and what each is worth."""
    if not content["exports"]:
        return ""
    lines = ["", "", "In other formats, for processors:", "", "```python"]
    for one in content["exports"].values():
        file = next(file for file in one["files"] if file.endswith((".onnx", ".xml")))
        options = dumps({"file_name": file, **LOADING[one["backend"]]})
        arguments = f'"path/to/this/folder", backend="{one["backend"]}", model_kwargs={options}'
        lines.append(f"model = SentenceTransformer({arguments})")
    lines += ["```", "", "| format | size | least similarity to this model | made with |", "|---|---|---|---|"]
    for name, one in content["exports"].items():
        packages = ", ".join(f"{package} {version}" for package, version in one["packages"].items())
        lines.append(f"| {name} | {one['bytes'] / 1e6:.1f} MB | {one['min_cosine']:.4f} | {packages} |")
    return "\n".join(lines + _exports_evaluated(content))


def _exports_evaluated(content: Mapping[str, Any]) -> list[str]:
    if not content["evaluation"]:
        return []
    metric = content["primary_metric"]["name"].rpartition(".")[2]
    lines = ["", "| eval set | format | metric | score | this model |", "|---|---|---|---|---|"]
    for name, evaluation in content["evaluation"].items():
        for kind, one in content["exports"].items():
            value, own = one["metrics"][name][metric], evaluation["after"][metric]
            lines.append(f"| {name} | {kind} | {metric} | {value:.4f} | {own:.4f} |")
    return lines


def _options(training: dict[str, Any]) -> str:
    told = [f", scale {training['scale']:g}"]
    if training["guide_model"]:
        told.append(f", guided by `{training['guide_model']}`")
    if training["hard_negatives"]:
        told.append(f", {training['hard_negatives']} hard negatives mined for each pair")
    if training["hardness"]:
        told.append(f", hardness weighting `{training['hardness']}`")
    return "".join(told)


def _base(model: dict[str, Any]) -> list[str]:
    """What the base model was, and what was assumed of it."""
    adapter = [f"- the base model was an adapter of `{model['adapter_of']}`, merged into it"] * bool(
        model["adapter_of"]
    )
    return adapter + [f"- assumed of the base model: {one}" for one in assumptions(model["assumed"])]


def _adapter(training: dict[str, Any]) -> list[str]:
    if training["lora_rank"] is None:
        return []
    return [
        f"- trained were the {training['trainable_parameters']} numbers of a LoRA adapter of rank "
        f"{training['lora_rank']}; it is merged into this model, and stands by itself in `adapter/` of the run"
    ]
