"""`scripts/new-run` as a user calls it, in a copy of the manifests."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.kubernetes.rendering import K8S, Manifest, render
from tests.program import ROOT

IMAGE = f"registry.example.com/team/mnrl-job@sha256:{'a' * 64}"
NEEDED = ("faq-7", "--image", IMAGE, "--train-data", "s3://bucket/pairs/")


@dataclass(frozen=True)
class Copy:
    """A copy of what new-run reads and writes."""

    folder: Path

    @property
    def runs(self) -> Path:
        return self.folder / "k8s" / "runs"

    def new_run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Without a cluster that kubectl would know."""
        environment = os.environ | {"KUBECONFIG": str(self.folder / "none")}
        return subprocess.run(
            ["scripts/new-run", *arguments], cwd=self.folder, env=environment, capture_output=True, text=True
        )

    def render(self, *arguments: str, name: str = "faq-7") -> tuple[Manifest, ...]:
        """Make a run, and what `kubectl apply -k` would send of it."""
        done = self.new_run(*arguments)
        assert done.returncode == 0, done.stderr
        return render(self.runs / name)


def make_copy(folder: Path) -> Copy:
    """Without runs that somebody has made here."""
    shutil.copytree(K8S, folder / "k8s", ignore=shutil.ignore_patterns("runs"))
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "new-run", folder / "scripts")
    return Copy(folder)
