"""Locate and fetch a training source by its URI."""

from mnrl_job.config.setting_types import Source
from mnrl_job.data.sources import fetch, locate

GOOD = b'{"anchor": "a", "positive": "b"}\n'


def locate_uri(uri, variable="MNRL_TRAIN_DATA"):
    return locate(Source("s", uri), variable, "path")


def fetch_uri(uri, folder):
    return fetch(locate_uri(uri), folder)
