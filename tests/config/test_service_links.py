"""Environment variables that Kubernetes and Docker set for services whose names start with `mnrl`."""

import pytest

from mnrl_job.config.reader import read_settings
from tests.config.reading import REQUIRED, find_problems


def kubernetes_links(service, port_name=""):
    """The variables that the kubelet sets in every pod of a service's namespace."""
    name = service.upper().replace("-", "_")
    links = {f"{name}_SERVICE_HOST": "10.0.0.7", f"{name}_SERVICE_PORT": "80", f"{name}_PORT": "tcp://10.0.0.7:80"}
    links |= {f"{name}_SERVICE_PORT_{port_name}": "80"} if port_name else {}
    for port, protocol in (("80", "tcp"), ("53", "udp")):
        prefix = f"{name}_PORT_{port}_{protocol.upper()}"
        links |= {prefix: f"{protocol}://10.0.0.7:{port}", f"{prefix}_PROTO": "tcp"}
        links |= {f"{prefix}_PORT": port, f"{prefix}_ADDR": "fd00::7"}
    return links


DOCKER_LINKS = {
    "MNRL_DB_NAME": "/job/mnrl-db",
    "MNRL_DB_PORT": "tcp://172.17.0.5:5432",
    "MNRL_DB_PORT_5432_TCP": "tcp://172.17.0.5:5432",
    "MNRL_DB_PORT_5432_TCP_ADDR": "172.17.0.5",
    "MNRL_DB_ENV_PG_VERSION": "16",
}


@pytest.mark.parametrize(
    "links",
    [
        kubernetes_links("mnrl-job"),
        kubernetes_links("mnrl-job", "HTTP_METRICS"),
        kubernetes_links("mnrl-2"),
        kubernetes_links("mnrl-batch-size", "HTTP"),
        DOCKER_LINKS,
    ],
)
def test_variables_of_a_service_named_like_the_job_are_ignored(links):
    settings, origins = read_settings("train", {}, REQUIRED | links, {})
    assert origins.keys() == {"train_data", "output"}
    assert settings.batch_size == 64
    for name, value in links.items():
        if "_ENV_" not in name and not name.endswith("_NAME"):
            read_settings("train", {}, REQUIRED | {name: value}, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MNRL_JOB_PORT", "8080"),
        ("MNRL_JOB_SERVICE_PORT", "http"),
        ("MNRL_DB_NAME", "/job/db"),
        ("MNRL_DB_ENV_X", "1"),
        ("MNRL_SERVICE", "tcp://10.0.0.7:80"),
    ],
)
def test_a_variable_that_only_looks_like_that_of_a_service_is_an_error(name, value):
    (problem,) = find_problems(environ=REQUIRED | {name: value})
    assert problem.startswith(f"{name} is not a setting")
    assert find_problems(environ=REQUIRED, dotenv={"MNRL_JOB_PORT": "tcp://10.0.0.7:80"})
