"""A step on a device that is not the processor: no tensor of it is left behind, and nothing waits for it.

Tensors of torch's meta device have no numbers: torch refuses to mix them with others in most operations (not in
products and in those in place), and to tell what they hold.
"""

import pytest
import torch
from transformers import BertConfig, BertModel

from mnrl_job.config.setting_types import Hardness
from mnrl_job.training.losses.contrastive_loss import LossConfig
from mnrl_job.training.losses.mnrl import GlobalBatchLoss

ROWS, TEXTS, WIDTH = 8, 24, 6
META = torch.device("meta")
CONFIG = BertConfig(
    vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, dtype="float32"
)


@pytest.fixture(autouse=True)
def autocast(monkeypatch):
    """There is none for this device, as torch has it."""
    known = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda _, **options: known("cpu", **options))


class Backbone(torch.nn.Module):
    """As much of a SentenceTransformer as the loss asks for; a mask would have transformers look whether it masks."""

    def __init__(self):
        super().__init__()
        self.bert = BertModel(CONFIG).to(META)
        self.device = META

    def forward(self, features):
        return {"sentence_embedding": self.bert(features["input_ids"]).last_hidden_state.mean(dim=1)}


def batch(guided):
    """Anchors, positives and negatives of eight rows in three chunks, and the labels of the rows."""
    chunks = [
        {
            "input_ids": torch.zeros(TEXTS // 3, WIDTH, dtype=torch.long, device=META),
            "attention_mask": torch.ones(TEXTS // 3, WIDTH, dtype=torch.long, device=META),
        }
        for _ in range(3)
    ]
    made = {"chunks": chunks, "order": torch.zeros(TEXTS, dtype=torch.long, device=META), "tokens": 1}
    made |= {"negatives": torch.zeros(ROWS, 3, dtype=torch.long, device=META), "padded_tokens": 1}
    if guided:
        made["guide"] = torch.randn(TEXTS, 4, device=META)
    return made, torch.zeros(ROWS, 3, dtype=torch.long, device=META)


@pytest.mark.parametrize("kept_tokens", [float("inf"), 0])
@pytest.mark.parametrize(
    ("objective", "hardness", "dimensions"),
    [
        ("mnrl", None, ()),
        ("mnrl", Hardness("hard_negatives", 5), (8, 4)),
        ("mnrl", Hardness("in_batch_negatives", 5), ()),
        ("symmetric", None, ()),
        ("gte", None, ()),
        ("guided", None, ()),
    ],
)
def test_all_tensors_of_a_step_are_on_its_device(objective, hardness, dimensions, kept_tokens):
    model = Backbone()
    loss = GlobalBatchLoss(model, LossConfig(20, objective, hardness), matryoshka_dims=dimensions)
    loss.activation_token_budget = kept_tokens
    loss.collect_stats = True
    value = loss(*batch(objective == "guided"))
    value.backward()
    gradients = [weight.grad for weight in model.bert.encoder.parameters()]
    looked_at = [value, loss.stats, loss.counts.masked, *loss.counts.batches, *gradients]
    assert {tensor.device for tensor in looked_at} == {META}


@pytest.mark.parametrize("name", ["labels", "negatives"])
def test_a_tensor_left_on_the_processor_is_found(name):
    made, labels = batch(guided=False)
    if name == "labels":
        labels = torch.zeros(ROWS, 3, dtype=torch.long)
    else:
        made["negatives"] = torch.zeros(ROWS, 3, dtype=torch.long)
    with pytest.raises(RuntimeError, match="device"):
        GlobalBatchLoss(Backbone(), LossConfig(20))(made, labels)
