"""What is in the image, and what is not."""

import json

import pytest

from mnrl_job import __version__
from tests.image.containers import ARBITRARY_USER, Image, docker
from tests.program import ROOT

pytestmark = pytest.mark.image

TOOLS = "gcc cc c++ clang ld as make pip pip3 git curl wget"
SECRETS = (".env", ".git", ".netrc", ".pypirc", "pip.conf", "id_rsa", "credentials", "*.key")


def test_the_user_has_a_name_a_number_and_the_group_that_owns_the_writable_folders(image: Image):
    assert image.shell("id -u; id -un; id -g").split() == ["1000", "mnrl", "0"]
    writable = "for one in /work /cache /tmp $HOME; do touch $one/file || exit 1; done; touch /file || echo denied"
    assert image.shell(writable, user=ARBITRARY_USER) == "denied"


def test_a_user_without_a_name_writes_to_the_folders_of_the_image_itself(name: str):
    wants = "touch /work/file /cache/file && python -c 'import getpass; print(getpass.getuser())'"
    flags = ("--network", "none", "--user", ARBITRARY_USER, "--entrypoint", "sh")
    said = docker("run", "--rm", *flags, name, "-c", f"stat -c '%g %a' /work /cache; {wants}")
    assert said.splitlines() == ["0 2775", "0 2775", "mnrl"]


def test_there_is_no_compiler_no_pip_and_no_leftover_of_the_build(image: Image):
    assert image.shell(f"for one in {TOOLS}; do command -v $one; done; true") == ""
    assert image.shell("find / -xdev -name '*.a' -o -xdev -path '*/pip/*' -name '*.whl' 2>/dev/null; true") == ""
    assert image.shell("find /var/cache/apt /var/lib/apt /root/.cache -type f 2>/dev/null; true") == ""
    assert image.shell("find /opt /models -type d -name tests") == ""


def test_no_secret_is_in_it_or_in_its_history(image: Image):
    names = " -o ".join(f"-name '{one}'" for one in SECRETS)
    assert image.shell(f"find / -xdev \\( {names} \\) -not -path '/etc/pam*' 2>/dev/null; true") == ""
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image.name)
    assert "://" not in history
    assert "PIP_" not in history


def test_every_module_is_compiled_so_that_a_read_only_root_starts_fast(image: Image):
    listed = image.shell(
        "cd /opt/mnrl-job/lib/python3*/site-packages/mnrl_job; find . -name '*.py'; find . -name '*.pyc'"
    )
    names = listed.split()
    assert len(names) > 100
    assert sum(one.endswith(".py") for one in names) == sum(one.endswith(".pyc") for one in names)


def test_the_bill_of_materials_lists_what_is_installed_and_was_written_beside_the_build(image: Image):
    bill = json.loads(image.shell("cat /opt/mnrl-job/sbom.cdx.json"))
    versions = {one["name"]: one["version"] for one in bill["components"]}
    installed = image.shell("python -c 'import importlib.metadata as m; print(m.version(\"torch\"))'")
    assert versions["torch"] == installed
    assert bill["metadata"]["component"]["name"] == "mnrl-job"
    assert image.shell("mnrl-job --version").split()[-1] == __version__
    beside = ROOT / "dist" / f"{image.name.replace('/', '-').replace(':', '-')}.cdx.json"
    assert json.loads(beside.read_text(encoding="utf-8")) == bill
