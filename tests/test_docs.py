"""The documentation holds: links lead somewhere, names exist, and commands run."""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys

import click
import pytest
import yaml

from mnrl_job.cli import commands
from mnrl_job.config.reader import read_settings
from mnrl_job.config.settings import Settings, env_name, flag_name
from mnrl_job.errors import JobError, SettingsError
from tests.documents import PAGES, Block, anchors, assignments, blocks, read, relative_links
from tests.examples import write_pairs
from tests.kubernetes.new_run import make_copy
from tests.program import ROOT, run_command

DOCS = ROOT / "docs"
# Not settings: what tells the image's own name and commit.
OTHER_NAMES = {"MNRL_JOB_IMAGE", "MNRL_JOB_GIT_SHA"}
A_COMMAND = re.compile(r"(?:^|[ /])mnrl-job(?::\S+)? (train|check|evaluate|verify|settings)\b([^;|&]*)")


@pytest.fixture
def checkout(tmp_path, tiny_model):
    """What the commands of the docs find in the current folder; the base model there is the tests' tiny one."""
    write_pairs(tmp_path / "pairs.jsonl")
    shutil.copytree(ROOT / "examples" / "support-faq" / "eval", tmp_path / "eval")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    script = tmp_path / "scripts" / "base-model"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\necho {tiny_model}\n")
    script.chmod(0o755)
    return Checkout(tmp_path, {"MNRL_BASE_MODEL": str(tiny_model), "MNRL_BATCH_SIZE": "8", "MNRL_MAX_STEPS": "2"})


class Checkout:
    """A folder in which blocks are run one after the other, as in one shell."""

    def __init__(self, folder, environment):
        self.folder = folder
        # A model that knows nothing may well get worse.
        self.environment = {"MNRL_MIN_GAIN": "-1"} | environment

    def run(self, block: Block) -> str:
        """Run all commands of a block, each of which must succeed; what they print."""
        if block.language == "python":
            return self.python(block.text)
        return "".join(self.command(command) for command in block.commands())

    def command(self, command: str) -> str:
        words = shlex.split(command)
        if words[0] == "export":
            self.export(command)
            return ""
        if words[0] in ("mnrl-job", ".venv/bin/mnrl-job"):
            ended = run_command(self.folder, *words[1:], **self.environment)
            assert ended.code == 0, ended.stderr
            return ended.stdout
        done = self.start("sh", "-euc", command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def export(self, command: str) -> None:
        told = self.start("sh", "-euc", f"{command}\nenv -0").stdout.split("\0")
        self.environment |= dict(line.split("=", 1) for line in told if line.startswith("MNRL_"))

    def python(self, code: str) -> str:
        """Run it in this process, which has imported the libraries."""
        printed = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(printed):
            exec(code, {})  # noqa: S102
        return printed.getvalue()

    def start(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | self.environment | {"HF_HUB_OFFLINE": "1"}
        return subprocess.run(words, cwd=self.folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_a_file_and_a_heading(page):
    dead = []
    for link in relative_links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_pages_that_code_and_manifests_name_exist():
    files = [ROOT / name for name in ("Makefile", "Dockerfile", "CONTRIBUTING.md", "env.example")]
    for folder in ("src", "scripts", "k8s", "image", "benchmarks", "examples"):
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    named = {
        name
        for path in files
        for name in re.findall(r"\bdocs/[\w/.-]+\.(?:md|json)\b", path.read_text(encoding="utf-8", errors="replace"))
    }
    assert len(named) > 5
    assert {name for name in named if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_that_a_page_names_exist(page):
    known = {env_name(field) for field in Settings.model_fields} | OTHER_NAMES
    assert set(re.findall(r"\bMNRL_[A-Z0-9_]*[A-Z0-9]\b", read(page))) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_values_that_a_page_gives_settings_are_accepted(page):
    for name, value in assignments(page):
        problems = ""
        try:
            read_settings("train", {}, {name: value}, {})
        except SettingsError as error:
            problems = str(error)
        assert f"{name}='" not in problems


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_a_page_are_accepted(page):
    for block in blocks(page):
        for line in block.commands() if block.language == "sh" else []:
            for name, rest in A_COMMAND.findall(line):
                words = shlex.split(rest.replace("…", ""))
                commands.commands[name].make_context(name, words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_in_a_page_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE))
    named = {line.split()[1] for block in blocks(page) for line in block.commands() if line.startswith("make ")}
    assert named <= targets


def test_the_command_line_reference_is_that_of_the_program_and_names_everything():
    made = subprocess.run([sys.executable, "scripts/cli_reference.py"], cwd=ROOT, capture_output=True, text=True)
    page = read(DOCS / "cli.md")
    assert made.stdout == page
    for name, command in commands.commands.items():
        assert f"## `mnrl-job {name}`" in page
        assert all(option.opts[0] in page for option in command.params if isinstance(option, click.Option))
    assert all(f"`{flag_name(field)}`" in page for field in Settings.model_fields)


def test_exit_codes_are_those_of_the_errors_and_of_the_job():
    rows = re.findall(r"^\| (\d+) \| (\w+) \|.*\| (yes|no) \| (.*?) \|$", read(DOCS / "exit-codes.md"), re.MULTILINE)
    errors = {
        (str(error.code), error.kind, "yes" if error.retry_helps else "no") for error in JobError.__subclasses__()
    }
    assert {row[:3] for row in rows} == errors
    rules = yaml.safe_load(read(ROOT / "k8s" / "base" / "job.yaml"))["spec"]["podFailurePolicy"]["rules"]
    action = {str(code): rule["action"] for rule in rules for code in rule.get("onExitCodes", {}).get("values", [])}
    words = {"FailJob": "Job failed", "Ignore": "retried, not counted"}
    for code, _, _, kubernetes in rows:
        assert kubernetes.startswith(words.get(action.get(code, "Count"), "retried, counted")), code


def test_the_tutorial_leads_from_a_spreadsheet_to_a_search(checkout):
    install, *rest = blocks(DOCS / "tutorial.md")
    assert "make install" in install.text
    printed = [checkout.run(block) for block in rest if block.language]
    assert "478 pairs from 478 rows, 0 rejected" in printed[1]
    assert "ndcg@10" in printed[2]
    assert re.fullmatch(r"(-?\d\.\d\d  \w.*\n){3}", printed[3])


def test_the_readme_trains_on_your_own_data(checkout):
    own = next(block for block in blocks(ROOT / "README.md") if "mnrl-job train" in block.text)
    checkout.run(own)
    assert list(checkout.folder.glob("runs/*/_SUCCESS"))


def test_operating_on_a_laptop_and_what_it_cost(checkout):
    laptop = next(block for block in blocks(DOCS / "operating.md") if "mnrl-job check" in block.text)
    checkout.run(laptop)
    run = next(checkout.folder.glob("runs/*/_SUCCESS")).parent
    if shutil.which("jq"):
        cost = next(block for block in blocks(DOCS / "operating.md") if block.text.startswith("jq "))
        shutil.copy(run / "metrics.json", checkout.folder)
        assert "device(s) held for" in checkout.start("sh", "-euc", cost.text).stdout


def test_a_run_on_kubernetes_is_made_by_one_command_that_prints_what_the_page_shows(tmp_path):
    page = ROOT / "k8s" / "README.md"
    made = next(block for block in blocks(page) if block.text.startswith("scripts/new-run"))
    shown = next(block for block in blocks(page) if block.text.startswith("k8s/runs/"))
    done = make_copy(tmp_path).new_run(*made.text.replace("…", "0" * 64).split()[1:])
    assert done.stdout == shown.text, done.stderr


@pytest.mark.slow
def test_storage_from_check_to_verify_on_s3(checkout, moto):
    client = moto.client()
    for bucket in ("data", "models"):
        client.create_bucket(Bucket=bucket)
    client.put_object(Bucket="data", Key="pairs/pairs.jsonl", Body=(checkout.folder / "pairs.jsonl").read_bytes())
    for path in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        client.put_object(Bucket="data", Key=f"eval/{path}", Body=(checkout.folder / "eval" / path).read_bytes())
    checkout.environment |= moto.environment
    checkout.run(blocks(DOCS / "storage.md")[0])
    assert client.head_object(Bucket="models", Key="runs/faq-7/_SUCCESS")


@pytest.mark.slow
def test_the_tutorial_keeps_what_it_promises_with_its_real_model(checkout, minilm):
    checkout.environment = {}
    (checkout.folder / "scripts" / "base-model").write_text(f"#!/bin/sh\necho {minilm}\n")
    *_, train, search = [checkout.run(block) for block in blocks(DOCS / "tutorial.md")[1:-1] if block.language]
    before, after = (float(number) for number in re.search(r"ndcg@10 +\S+ +(\S+) +(\S+)", train).groups())
    assert after > before + 0.05
    assert search.splitlines()[0][6:].startswith("A printer that loses its network address overnight")


@pytest.mark.slow
def test_make_train_ends_as_the_readme_shows(checkout):
    """By the script that `make train` runs once everything is installed, with a tiny model and few steps."""
    assert "examples/support-faq/train.sh $(BIN)" in read(ROOT / "Makefile")
    checkout.environment |= {"MNRL_LOG_FORMAT": "text"}  # as on a terminal
    train = checkout.start("examples/support-faq/train.sh", ".venv/bin")
    assert train.returncode == 0, train.stderr
    shown = next(block for block in blocks(ROOT / "README.md") if block.text.startswith("support-faq\n"))
    header, row = shown.text.splitlines()[1:3]
    assert f"\nsupport-faq\n{header}\n{row[:7]}" in train.stdout
    assert "the run is in runs/" in train.stderr
