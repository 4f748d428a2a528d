"""What of an accelerate configuration file is refused, and what is said not to count."""

import pytest

from mnrl_job.errors import NotFound, SettingsError
from mnrl_job.launch.accelerate_config import check_accelerate_file
from mnrl_job.launch.nodes import Nodes
from tests.examples import FSDP2


def check(tmp_path, content, workers=2):
    path = tmp_path / "accelerate.yaml"
    path.write_text(content)
    check_accelerate_file(str(path), workers)


def test_fsdp2_is_taken_without_a_word(tmp_path, caplog):
    check(tmp_path, FSDP2)
    assert caplog.text == ""


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NotFound, match=r"^MNRL_ACCELERATE_CONFIG: .*none\.yaml "):
        check_accelerate_file(str(tmp_path / "none.yaml"), 2)


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ("a: [", "a YAML file"),
        ("- a", "no names and values"),
        ("distributed_type: DEEPSPEED", "DEEPSPEED"),
        ("distributed_type: XLA", "XLA"),
        ("distributed_type: FSDP", "version 2"),
        (FSDP2.replace("version: 2", "version: 1"), "version 2"),
    ],
)
def test_what_is_not_supported_is_refused(tmp_path, content, fact):
    with pytest.raises(SettingsError, match=rf"^MNRL_ACCELERATE_CONFIG: .*accelerate\.yaml.*\b{fact}\b"):
        check(tmp_path, content)


@pytest.mark.parametrize(("nodes", "fact"), [(Nodes(2, 2), "2 nodes"), (Nodes(1, 4), "elastic run .*resharding")])
def test_shares_are_not_spread_over_several_machines(tmp_path, nodes, fact):
    (tmp_path / "accelerate.yaml").write_text(FSDP2)
    with pytest.raises(SettingsError, match=rf"^MNRL_ACCELERATE_CONFIG: .*accelerate\.yaml: FSDP .*\b{fact}"):
        check_accelerate_file(str(tmp_path / "accelerate.yaml"), 1, nodes)


@pytest.mark.parametrize(
    ("content", "workers", "told"),
    [
        (FSDP2, 1, "one worker has nobody to share the model with"),
        (FSDP2, 4, "there are 4 workers"),
        (FSDP2.replace("'no'", "bf16"), 2, "MNRL_PRECISION says"),
    ],
)
def test_what_does_not_count_is_said(tmp_path, caplog, content, workers, told):
    check(tmp_path, content, workers)
    assert told in caplog.text
