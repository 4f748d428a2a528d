"""The Python that exports: what is missing is told before anything else is done."""

import re
import subprocess
import sys
import sysconfig

import pytest

from mnrl_job.errors import SettingsError
from mnrl_job.launch.exporters import check_exporters, python_of
from tests.program import ROOT, clean_environment


@pytest.fixture(scope="module")
def without_exporters(tmp_path_factory):
    """A Python with the packages of this one, and no environment for exporters inside."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    behind = sysconfig.get_path("purelib")
    (packages / "ours.pth").write_text(f"import site; site.addsitedir({behind!r})")
    return folder / "bin" / "python"


def test_without_exporters_train_ends_at_once_and_says_what_to_install(good, tmp_path, without_exporters):
    command = [str(without_exporters), str(ROOT / "entrypoint.py"), "train"]
    environment = clean_environment(**good, MNRL_EXPORT="int8,openvino", MNRL_WORK_DIR="work")
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 64, ended.stderr
    last = ended.stderr.strip().splitlines()[-1]
    assert re.search(f"MNRL_EXPORT=openvino,int8: openvino .*{without_exporters}", last)
    assert "No module named 'optimum'" in last
    assert "make install-export" in last
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "work" / "inputs").exists(), "nothing was fetched"
    assert not list((tmp_path / "out" / "r").glob("m*")), "neither model nor metrics"


@pytest.mark.slow
def test_check_finds_it_with_a_remedy_and_nothing_else_fails_for_it(good, tmp_path, without_exporters):
    command = [str(without_exporters), str(ROOT / "entrypoint.py"), "check"]
    environment = clean_environment(**good, MNRL_EXPORT="onnx")
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 64, ended.stderr
    failed = [line for line in ended.stdout.splitlines() if line.startswith("failed")]
    assert len(failed) == 1
    assert failed[0].startswith("failed   exporters")
    assert "-> run `make install-export`" in ended.stdout


def test_packages_that_are_there_but_do_not_go_together_are_found(monkeypatch):
    monkeypatch.setitem(
        sys.modules["mnrl_job.launch.exporters"].NEEDED, "onnx", "from transformers.modeling_utils import no_such_name"
    )
    with pytest.raises(SettingsError, match=r"^MNRL_EXPORT=onnx: .*'no_such_name'"):
        check_exporters(("onnx",))


def test_only_exporting_is_done_in_the_other_python():
    assert python_of("train") == sys.executable
    assert python_of("export") != sys.executable
