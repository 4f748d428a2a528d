"""One training run in this process, where memory is short and where the model is of another kind."""

import math
import os
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from mnrl_job.config.setting_types import Hardness
from mnrl_job.embedding.chunks import ChunkBudget, chunk_limit
from mnrl_job.embedding.loading import load_model
from mnrl_job.embedding.masks import embed
from mnrl_job.embedding.precision import autocast
from mnrl_job.errors import OutOfMemory, SettingsError
from mnrl_job.training import memory
from mnrl_job.training.collator import TextCollator, TokenCollator, collator
from mnrl_job.training.data_order_digest import data_order_digest
from mnrl_job.training.guide import FOLDER, embed_by_guide
from mnrl_job.training.lora import merged
from mnrl_job.training.token_lengths import measure_lengths
from tests.examples import PAIRS
from tests.training.four_steps import PLAN, SETTINGS


def weights(model):
    return torch.cat([weight.detach().ravel() for weight in model.parameters()])


def test_the_size_of_chunks_changes_memory_and_not_the_result(run, model, tiny_model, monkeypatch):
    from sentence_transformers import SentenceTransformer

    kept, losses = run(model)
    assert (kept.activation_recompute, kept.rows_digest, kept.rows_used) == (False, data_order_digest(PLAN), 32)
    assert kept.padded_tokens > kept.tokens > 0
    assert 0 < kept.seconds_waited < kept.seconds
    monkeypatch.setattr(memory, "free_memory", lambda: 0)
    other = SentenceTransformer(str(tiny_model), device="cpu")
    recomputed, other_losses = run(other, mini_batch_size=1)
    assert recomputed.activation_recompute
    assert recomputed.tokens == kept.tokens
    assert recomputed.padded_tokens < kept.padded_tokens
    assert other_losses == pytest.approx(losses, abs=1e-5)
    torch.testing.assert_close(weights(other), weights(model), rtol=0, atol=1e-4)


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def fail_in_loss(monkeypatch):
    """Have the loss itself run out of memory so many times."""

    def arrange(times):
        from mnrl_job.training.losses import mnrl

        contrast, failed = mnrl.contrastive_loss, []

        def fail(*arguments):
            if len(failed) < times:
                failed.append(arguments)
                raise OUT_OF_MEMORY
            return contrast(*arguments)

        monkeypatch.setattr(mnrl, "contrastive_loss", fail)

    return arrange


@pytest.mark.parametrize("moment", ["forward", "loss", "backward", "end of backward"])
def test_a_step_that_runs_out_of_memory_is_tried_again_with_less(run, model, tiny_model, fail_in_loss, moment):
    from sentence_transformers import SentenceTransformer

    _, losses = run(SentenceTransformer(str(tiny_model), device="cpu"))
    failed = []

    def fail(tensor):
        failed.append(len(tensor))
        raise OUT_OF_MEMORY

    def watch(_, __, found):
        embeddings = found["sentence_embedding"]
        if len(embeddings) > 2 and moment == "forward":
            fail(embeddings)
        if len(embeddings) > 2 and embeddings.requires_grad and moment == "backward":
            embeddings.register_hook(fail)

    model.register_forward_hook(watch)
    if moment == "end of backward":  # when most weights have their gradient already
        words = model.transformers_model.get_input_embeddings().weight
        words.register_hook(lambda gradient: fail(gradient) if len(failed) < 2 else None)
    if moment == "loss":
        fail_in_loss(2)
    trained, other_losses = run(model)
    assert trained.activation_recompute
    assert moment == "loss" or len(failed) >= 2
    assert trained.rows_digest == data_order_digest(PLAN)
    assert trained.masked_per_anchor == 0
    assert other_losses == pytest.approx(losses, abs=1e-5)


def test_each_way_to_need_less_memory_is_told(run, model, monkeypatch):
    """Half of the activations, none, then smaller chunks; until two texts at a time are few enough."""
    told = []
    monkeypatch.setattr("mnrl_job.training.trainer.warn", told.append)
    monkeypatch.setattr("mnrl_job.training.trainer.tokens_that_fit", lambda *_: math.inf)

    def fail_if_many(_, __, found):
        if len(found["sentence_embedding"]) > 2:
            raise OUT_OF_MEMORY

    model.register_forward_hook(fail_if_many)
    run(model, mini_batch_size=4)
    ways = [
        "enabling activation recomputation for all but N tokens of a batch",
        "enabling activation recomputation for whole batches",
        "splitting chunks in 2 and recomputing all activations",
    ]
    found = [re.sub(r"\d+ tokens", "N tokens", one) for one in told]
    assert found == [f"out of device memory at step 1: {way}; retrying the step" for way in ways]


def test_a_second_try_draws_the_same_dropout(run, model, tiny_model, fail_in_loss):
    from sentence_transformers import SentenceTransformer

    other = SentenceTransformer(str(tiny_model), device="cpu")
    for module in (*model.modules(), *other.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    run(model)
    fail_in_loss(1)
    assert run(other)[0].activation_recompute
    torch.testing.assert_close(weights(other), weights(model), rtol=0, atol=1e-6)


def test_a_model_whose_batches_cannot_be_cut_tells_what_to_set(run, static_model, fail_in_loss):
    fail_in_loss(1)
    with pytest.raises(OutOfMemory, match=r"allocate 2\.00 GiB.*MNRL_BATCH_SIZE"):
        run(static_model)


def test_where_not_even_one_text_fits_the_numbers_are_told(run, model):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model.register_forward_hook(fail)
    with pytest.raises(OutOfMemory, match=r"one text.*\b2\.00 GiB.*MNRL_MAX_SEQ_LENGTH"):
        run(model)


def test_a_model_that_reads_no_token_ids_is_trained_too(run, static_model):
    before = weights(static_model).clone()
    trained, losses = run(static_model)
    assert trained.tokens == trained.padded_tokens == 0
    assert len(losses) == 4
    assert not torch.equal(weights(static_model), before)


def test_batches_are_looked_up_by_row_number(run, model, static_model, tmp_path):
    """The embeddings of all columns, put in order, are those of the texts of the rows."""
    rows = [{"label": [row, row, 100 + row]} for row in (5, 0, 17)]
    for one, kind in ((model, TokenCollator), (static_model, TextCollator)):
        collate = collator(one, run.pairs, chunk_limit(torch.device("cpu")), tmp_path / "some")
        assert isinstance(collate, kind)
        batch = collate(rows)
        with torch.no_grad():
            found = torch.cat([embed(one, chunk) for chunk in batch["chunks"]])[batch["order"]]
        texts = [f"{PAIRS[row % 8][0]} {'abcd'[row // 8]}" for row in (5, 0, 17)]
        texts += [PAIRS[row % 8][1] for row in (5, 0, 17)]
        torch.testing.assert_close(found, one.encode(texts, convert_to_tensor=True), rtol=1e-5, atol=1e-6)
        assert batch["label"].tolist() == [row["label"] for row in rows]


@pytest.mark.parametrize("in_mean", [True, False])
def test_anchors_and_documents_have_their_prompts(run, model, static_model, tmp_path, in_mean):
    """Of different length, which the model must know where they do not count in the mean."""
    model.set_pooling_include_prompt(in_mean)
    rows = [{"label": [row, row, 100 + row]} for row in (5, 0, 17)]
    anchors = [f"{PAIRS[row % 8][0]} {'abcd'[row // 8]}" for row in (5, 0, 17)]
    positives = [PAIRS[row % 8][1] for row in (5, 0, 17)]
    for one, prompts in ((model, ("where is my ", "open a ")), (static_model, ("b c ", "c "))):
        one.prompts = dict(zip(("query", "document"), prompts, strict=True))
        batch = collator(one, run.pairs, ChunkBudget(100, 4, 1), tmp_path / "some")(rows)
        with torch.no_grad():
            found = torch.cat([embed(one, chunk) for chunk in batch["chunks"]])[batch["order"]]
        queries, documents = (
            encode(texts, convert_to_tensor=True)
            for encode, texts in ((one.encode_query, anchors), (one.encode_document, positives))
        )
        torch.testing.assert_close(found, torch.cat([queries, documents]), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(found, one.encode(anchors + positives, convert_to_tensor=True), atol=1e-3)


def test_columns_with_prompts_of_the_same_length_are_cut_together(run, model, tmp_path):
    model.prompts = {"query": "where is ", "document": "open a "}
    rows = [{"label": [row, row, 100 + row]} for row in range(8)]
    assert len(collator(model, run.pairs, ChunkBudget(1000, 100, 1000), tmp_path / "some")(rows)["chunks"]) == 1


def test_prompts_count_in_the_lengths_of_texts(run, model):
    before = measure_lengths(model, run.pairs).columns
    model.prompts = {"query": "where is my ", "document": "open "}
    after = measure_lengths(model, run.pairs).columns
    more = {name: after[name]["p100"] - before[name]["p100"] for name in before}
    assert more == {"anchor": 3, "positive": 1}


def test_lengths_are_measured_in_more_text_than_arrow_can_join(run, model, huge, monkeypatch):
    monkeypatch.setattr("mnrl_job.training.token_lengths.read_table", lambda _: huge)
    monkeypatch.setattr("mnrl_job.training.token_lengths.SAMPLED_ROWS", 4)
    assert measure_lengths(model, replace(run.pairs, rows=huge.num_rows)).columns["anchor"]["p100"] == 3


def test_hardness_changes_what_is_learnt(run, tiny_model):
    ways = (None, Hardness("all_negatives", 9), Hardness("in_batch_negatives", 5))
    losses = [run(load_model(str(tiny_model), SETTINGS).model, hardness=hardness)[1] for hardness in ways]
    assert len({tuple(one) for one in losses}) == 3


def test_prompts_that_are_given_teach_what_the_models_own_do(run, model, tiny_model, tmp_path):
    model.prompts = {"query": "where is my ", "document": "open "}
    model.save_pretrained(str(tmp_path / "prompted"), create_model_card=False)
    given = SETTINGS.model_copy(update={"query_prompt": "where is my ", "document_prompt": "open "})
    taken = SETTINGS.model_copy(update={"query_prompt": "add "})
    ways = {"without": (tiny_model, SETTINGS), "given": (tiny_model, given)}
    ways |= {"own": (tmp_path / "prompted", SETTINGS), "taken": (tmp_path / "prompted", taken)}
    learnt = {}
    for name, (folder, settings) in ways.items():
        prompted = load_model(str(folder), settings).model
        run(prompted)
        learnt[name] = weights(prompted)
    assert torch.equal(learnt["own"], learnt["given"])
    assert not torch.equal(learnt["own"], learnt["without"])
    assert not torch.equal(learnt["own"], learnt["taken"])


def test_a_guide_takes_false_negatives_out(run, model, tiny_model, tmp_path):
    """It finds all texts alike that share words with the query: it takes some documents out, not all."""
    embed_by_guide(load_model(str(tiny_model), SETTINGS).model, run.pairs, PLAN, "fp32", tmp_path / FOLDER)
    trained, _ = run(model, loss="guided")
    assert 0 < trained.masked_per_anchor < 7


def test_other_processes_can_make_the_batches(run, model, tmp_path):
    """As they do for a GPU."""
    collate = collator(model, run.pairs, chunk_limit(torch.device("cpu")), tmp_path / "some")
    rows = [{"label": [row, row, 100 + row]} for row in range(8)]
    (found,) = torch.utils.data.DataLoader(rows, batch_size=8, num_workers=1, collate_fn=collate)
    expected = collate(rows)
    assert torch.equal(found["order"], expected["order"])
    for one, other in zip(found["chunks"], expected["chunks"], strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])


def test_other_processes_may_tokenise_too(run, static_model, tmp_path, monkeypatch):
    """A tokenizer that has used its threads before a fork waits for them in the copy, where they are not."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    static_model.preprocess(["a b c"] * 100)
    collate = collator(static_model, run.pairs, chunk_limit(torch.device("cpu")), tmp_path / "some")
    rows = [{"label": [row, row, 100 + row]} for row in range(32)]
    loader = torch.utils.data.DataLoader(rows, batch_size=32, num_workers=1, collate_fn=collate, timeout=20)
    (found,) = loader
    for one, other in zip(found["chunks"], collate(rows)["chunks"], strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true", "here as before"


def test_a_model_for_flash_attention_is_tokenised_before_and_cut_into_chunks(run, tiny_model, tmp_path, monkeypatch):
    """The library would have it read all texts in one row. Attention itself is another's here, for want of a GPU."""
    import transformers.modeling_flash_attention_utils as flash
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules.transformer import Transformer

    monkeypatch.setattr(Transformer, "_is_flash_attention_requested", lambda _: True)
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda _: ((None, print, None, None), None))
    theirs = SentenceTransformer(str(tiny_model), device="cpu")
    assert "attention_mask" not in theirs.preprocess(["a text"]), "the library's way"
    ours = load_model(str(tiny_model), SETTINGS).model
    assert isinstance(collator(ours, run.pairs, ChunkBudget(100, 4, 1), tmp_path / "some"), TokenCollator)
    theirs.save_pretrained(str(tmp_path / "theirs"), create_model_card=False)
    ours.save_pretrained(str(tmp_path / "ours"), create_model_card=False)
    saved = [(tmp_path / name / "sentence_bert_config.json").read_text() for name in ("ours", "theirs")]
    assert saved[0] == saved[1]


def test_memory_is_counted_with_padding_as_batches_have_it(run, model, tmp_path):
    """Without anything to mask, attention keeps less."""
    columns = collator(model.train(), run.pairs, ChunkBudget(100, 100, 1), tmp_path / "some").columns
    column = max(columns, key=lambda one: int(one.lengths.max()))
    row, length = column.lengths.argmax(), int(column.lengths.max())
    one, two = (memory.bytes_kept(model, column.features(np.repeat(row, copies), length)) for copies in (1, 2))
    assert memory.bytes_for_a_token(model, columns) > (two - one) / length


def test_memory_is_counted_for_the_largest_share_of_a_batch(run, model, tmp_path):
    collate = collator(model, run.pairs, ChunkBudget(100, 100, 1), tmp_path / "some")
    lengths = collate.columns[0].lengths + collate.columns[1].lengths
    plan = np.array([[0, 1, 2, 3], [8, 9, 10, 12]])
    assert memory.most_tokens(collate, plan, 1) == lengths[plan].sum(axis=1).max()
    assert memory.most_tokens(collate, plan, 2) == max(lengths[half].sum() for half in plan.reshape(-1, 2))
    thirds = [share for one, two, three, four in plan for share in ([one], [two], [three, four])]
    assert memory.most_tokens(collate, plan, 3) == max(lengths[third].sum() for third in thirds)


def test_activations_are_kept_as_long_as_they_fit_beside_gradients_and_moments(run, model, tmp_path, monkeypatch):
    collate = collator(model.train(), run.pairs, ChunkBudget(100, 100, 1), tmp_path / "some")
    tokens = memory.PADDING * memory.most_tokens(collate, PLAN, 2)
    needed = tokens * memory.bytes_for_a_token(model, collate.columns) / memory.SHARE_OF_MACHINE
    trained = 12 * sum(weight.numel() for weight in model.parameters())
    for free, enough in ((needed + trained + 10, math.inf), (needed + trained - 10, 0)):
        monkeypatch.setattr(memory, "free_memory", lambda free=free: 2 * free)
        assert memory.tokens_that_fit(model, collate, PLAN, ranks=2) == enough


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_counting_memory_changes_no_dropout(run, model, tiny_model, monkeypatch, precision):
    """Training goes on from the seed, whether or not anything was tried before."""
    from sentence_transformers import SentenceTransformer

    other = SentenceTransformer(str(tiny_model), device="cpu")
    for module in (*model.modules(), *other.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    _, losses = run(model, precision=precision)
    monkeypatch.setattr("mnrl_job.training.trainer.tokens_that_fit", lambda *_: math.inf)
    monkeypatch.setattr("mnrl_job.training.trainer.PlannedTrainer._find_cast_weights", lambda *_: [])
    _, other_losses = run(other, precision=precision)
    assert other_losses == pytest.approx(losses, abs=1e-5 if precision == "fp32" else 1e-3)


def test_activations_are_counted_once_and_weights_not_at_all(run, model, tmp_path):
    """Each layer keeps some tens of numbers for each hidden unit of a token; the weights in bf16 would be far more."""
    columns = collator(model.train(), run.pairs, ChunkBudget(100, 100, 1), tmp_path / "some").columns
    hidden, layers = 32, 2
    with autocast("bf16", model.device):
        rounded = memory.bytes_for_a_token(model, columns)
    assert layers * 10 * hidden * 2 < rounded < memory.bytes_for_a_token(model, columns) < layers * 50 * hidden * 4


@pytest.mark.parametrize("again", ["layers", "chunks", "both"])
def test_what_is_computed_again_teaches_the_same(run, model, tiny_model, monkeypatch, again):
    """Also with dropout, which must fall alike both times."""
    from sentence_transformers import SentenceTransformer

    other = SentenceTransformer(str(tiny_model), device="cpu")
    for module in (*model.modules(), *other.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    _, losses = run(model)
    if again != "layers":
        monkeypatch.setattr(memory, "free_memory", lambda: 0)
    trained, other_losses = run(other, gradient_checkpointing=again != "chunks")
    assert trained.activation_recompute == (again != "layers")
    assert other_losses == pytest.approx(losses, abs=1e-5)
    torch.testing.assert_close(weights(other), weights(model), rtol=0, atol=1e-4)


def test_of_layers_computed_again_only_the_inputs_are_counted(run, model, tmp_path):
    columns = collator(model.train(), run.pairs, ChunkBudget(100, 100, 1), tmp_path / "some").columns
    kept = memory.bytes_for_a_token(model, columns)
    memory.checkpoint_layers(model)
    hidden, layers = 32, 2
    assert layers * hidden * 4 < memory.bytes_for_a_token(model, columns) < kept / 3


def test_a_model_without_layers_to_compute_again_is_refused(run, static_model):
    with pytest.raises(SettingsError, match=r"^MNRL_GRADIENT_CHECKPOINTING=true: "):
        run(static_model, gradient_checkpointing=True)


@pytest.mark.parametrize("again", ["nothing", "layers", "chunks"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_adapter_learns_while_the_model_stands_still(
    run, model, tiny_model, tmp_path, monkeypatch, again, precision
):
    from sentence_transformers import SentenceTransformer

    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    settings = {"lora_rank": 4, "learning_rate": 0.02}
    expected = run(SentenceTransformer(str(tiny_model), device="cpu"), **settings)[1]
    if again == "chunks":
        monkeypatch.setattr(memory, "free_memory", lambda: 0)
    trained, losses = run(model, precision=precision, gradient_checkpointing=again == "layers", **settings)
    assert losses == pytest.approx(expected, abs=1e-5 if precision == "fp32" else 0.05)
    assert losses[-1] < losses[0] - 0.1
    assert trained.activation_recompute == (again == "chunks")
    moved = {name: weight for name, weight in model.named_parameters() if ".lora_" in name}
    assert trained.trainable_parameters == sum(weight.numel() for weight in moved.values())
    assert all(weight.abs().sum() > 0 for weight in moved.values())
    plain = merged(model, SentenceTransformer(str(tiny_model), device="cpu"))
    still = [name for name, weight in plain.named_parameters() if "LayerNorm" in name or "embeddings" in name]
    assert still
    assert all(torch.equal(plain.state_dict()[name], before[name]) for name in still)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
