"""Whether the API server would take an object: by the schemas of Kubernetes, and those of the CRDs in use."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml
from kubernetes_validate.utils import all_versions, major_minor

from tests.kubernetes.rendering import Manifest, workload

# The three newest minor versions.
VERSIONS = sorted({major_minor(version) for version in all_versions()}, key=lambda one: int(one.split(".")[1]))[-3:]


@cache
def custom_schemas() -> dict[tuple[str, str], Manifest]:
    """By API version and kind. What is not in them is refused, so they tell what is used of a CRD, too."""
    found = [yaml.safe_load(path.read_text()) for path in (Path(__file__).parent / "schemas").glob("*.yaml")]
    return {(one["apiVersion"], one["kind"]): one["spec"] for one in found}


def problems(manifest: Manifest, version: str) -> Iterator[str]:
    """What is wrong with an object, for one version of Kubernetes."""
    custom = custom_schemas().get((manifest["apiVersion"], manifest["kind"]))
    try:
        if custom is None:
            kubernetes_validate.validate(manifest, version, strict=True)
            return
        jsonschema.validate(manifest.get("spec", {}), custom)
    except (jsonschema.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        yield f"{manifest['kind']} {'.'.join(map(str, getattr(error, 'path', ())))}: {error.message}"
    if manifest["kind"] in ("JobSet", "TrainingRuntime"):
        job = workload((manifest,)).job
        yield from problems({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": job}, version)
