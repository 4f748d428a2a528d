"""What workers are told of an accelerate file, and what of a model is made fit for being held in shares."""

import os

import pytest

from mnrl_job.errors import SettingsError
from mnrl_job.training import fsdp
from mnrl_job.training.fsdp import apply_accelerate_config, check_checkpoint, prepare_for_fsdp
from tests.examples import FSDP2


@pytest.fixture
def told(tmp_path, monkeypatch):
    """The environment variables that a file adds."""

    def tell(content):
        before = {"PATH": os.environ["PATH"], "WORLD_SIZE": "2"}
        monkeypatch.setattr(os, "environ", dict(before))
        path = tmp_path / "accelerate.yaml"
        path.write_text(content)
        apply_accelerate_config(str(path))
        return {name: value for name, value in os.environ.items() if name not in before}

    return tell


def test_the_environment_of_accelerate_launch_is_applied(told):
    found = told(FSDP2)
    assert found["ACCELERATE_USE_FSDP"] == "true"
    assert found["FSDP_VERSION"] == "2"
    assert found["FSDP_TRANSFORMER_CLS_TO_WRAP"] == "BertLayer"
    assert found["FSDP_STATE_DICT_TYPE"] == "SHARDED_STATE_DICT"
    assert not {"CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MASTER_PORT"} & found.keys()


def test_ram_efficient_loading_is_disabled(told):
    content = FSDP2 + "  fsdp_cpu_ram_efficient_loading: true\n  fsdp_sync_module_states: true\n"
    assert told(content)["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"


def test_without_fsdp_it_is_not_enabled(told):
    assert "ACCELERATE_USE_FSDP" not in told("distributed_type: MULTI_GPU\nnum_machines: 1\n")


def test_an_unknown_key_of_the_accelerate_file_is_named(told):
    with pytest.raises(SettingsError, match=r"^MNRL_ACCELERATE_CONFIG: .*'shards'"):
        told(FSDP2 + "shards: 3\n")


def test_weights_that_no_embedding_depends_on_are_frozen(tiny_model):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_model), device="cpu")
    prepare_for_fsdp(model)
    still = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert still == {"0.model.pooler.dense.weight", "0.model.pooler.dense.bias"}


def test_a_checkpoint_of_the_other_kind_is_refused_with_the_number_of_workers_to_set(tmp_path, monkeypatch):
    check_checkpoint(tmp_path)
    monkeypatch.setattr(fsdp, "is_sharded", lambda: True)
    with pytest.raises(SettingsError, match="MNRL_NUM_PROCESSES=1"):
        check_checkpoint(tmp_path)
    (tmp_path / "pytorch_model_fsdp_0").mkdir()
    check_checkpoint(tmp_path)
    monkeypatch.undo()
    with pytest.raises(SettingsError, match="MNRL_NUM_PROCESSES to 2 or more"):
        check_checkpoint(tmp_path)
