"""Read sources as a run does."""

from mnrl_job.config.setting_types import Source
from mnrl_job.config.settings import Settings
from mnrl_job.data.read_pairs import read_pairs
from mnrl_job.data.sources import fetch, locate
from mnrl_job.data.tables import read_table
from mnrl_job.pipeline.inputs import read_options


def read(tmp_path, *sources, **settings):
    """The training pairs of sources or paths, and the rows of their Arrow file."""
    given_sources = [one if isinstance(one, Source) else Source(f"s{i}", str(one)) for i, one in enumerate(sources)]
    fetched = tuple(fetch(locate(source, "MNRL_TRAIN_DATA"), tmp_path / "in") for source in given_sources)
    pairs = read_pairs(fetched, read_options(Settings(**settings)), tmp_path / "pairs.arrow")
    return pairs, read_table(pairs.path).to_pylist()
