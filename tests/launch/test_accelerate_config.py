"""Unsupported accelerate configuration files, and options in them that are ignored."""

import pytest

from mnrl_job.errors import NotFound, SettingsError
from mnrl_job.launch.accelerate_config import check_accelerate_file
from mnrl_job.launch.nodes import Nodes
from tests.examples import FSDP2


def check(tmp_path, content, workers=2):
    path = tmp_path / "accelerate.yaml"
    path.write_text(content)
    check_accelerate_file(str(path), workers)


def test_fsdp2_is_supported_without_a_warning(tmp_path, caplog):
    check(tmp_path, FSDP2)
    assert caplog.text == ""


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NotFound, match=r"^MNRL_ACCELERATE_CONFIG: .*none\.yaml "):
        check_accelerate_file(str(tmp_path / "none.yaml"), 2)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a: [", "a YAML file"),
        ("- a", "not a mapping"),
        ("distributed_type: DEEPSPEED", "DEEPSPEED"),
        ("distributed_type: XLA", "XLA"),
        ("distributed_type: FSDP", "version 2"),
        (FSDP2.replace("version: 2", "version: 1"), "version 2"),
    ],
)
def test_an_unsupported_configuration_is_refused(tmp_path, content, reason):
    with pytest.raises(SettingsError, match=rf"^MNRL_ACCELERATE_CONFIG: .*accelerate\.yaml.*\b{reason}\b"):
        check(tmp_path, content)


@pytest.mark.parametrize(("nodes", "reason"), [(Nodes(2, 2), "2 nodes"), (Nodes(1, 4), "elastic run .*resharded")])
def test_fsdp_on_several_nodes_is_refused(tmp_path, nodes, reason):
    (tmp_path / "accelerate.yaml").write_text(FSDP2)
    with pytest.raises(SettingsError, match=rf"^MNRL_ACCELERATE_CONFIG: .*accelerate\.yaml: FSDP .*\b{reason}"):
        check_accelerate_file(str(tmp_path / "accelerate.yaml"), 1, nodes)


@pytest.mark.parametrize(
    ("content", "workers", "warning"),
    [
        (FSDP2, 1, "ignored with one worker"),
        (FSDP2, 4, "there are 4 workers"),
        (FSDP2.replace("'no'", "bf16"), 2, "set MNRL_PRECISION instead"),
    ],
)
def test_ignored_options_are_logged(tmp_path, caplog, content, workers, warning):
    check(tmp_path, content, workers)
    assert warning in caplog.text
