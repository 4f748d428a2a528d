"""The token shards on this machine: those of a folder in place, those of a store downloaded while training goes on."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mnrl_job.batching.token_shards import TokenShards
from mnrl_job.errors import DataError, StorageError
from mnrl_job.storage import is_remote, local_path, open_store
from mnrl_job.storage.transfer import download
from mnrl_job.system.files import sha256_of, storage_error
from mnrl_job.system.threads import background

# The setting that names the prepared data set.
VARIABLE = "MNRL_TRAIN_DATA"
# Steps after which nothing reads the shard before any more: loader processes are a few batches behind the sampler.
PASSED_AFTER = 16


class ShardFiles:
    """Provides the shard of each step, checked, and the next one ahead; removes downloaded ones that were passed.

    Every rank calls `begin_step`. The first on a machine that needs a shard downloads it to `folder`. The run has this
    many steps; the addressing style is that of S3.
    """

    def __init__(self, shards: TokenShards, steps: int, folder: Path, addressing_style: str) -> None:
        self.shards = shards
        self._last = (steps - 1) // shards.steps_per_shard
        self._is_remote = is_remote(shards.uri)
        self._folder = folder if self._is_remote else local_path(shards.uri, VARIABLE)
        self._addressing_style = addressing_style
        self._fetches: dict[int, Callable[[], None]] = {}

    def path(self, index: int) -> Path:
        """The file of a shard, which is there once its first step has begun. A downloaded one has its own folder."""
        name = TokenShards.name(index)
        return self._folder / str(index) / name if self._is_remote else self._folder / name

    def begin_step(self, step: int) -> None:
        """Wait for the shard of a step.

        Raises:
            DataError: it is missing in its folder, or damaged.
            StorageError: it is missing in its store, or damaged, or cannot be downloaded.
        """
        index, offset = divmod(step, self.shards.steps_per_shard)
        self._fetch(index)()
        passed = (step - PASSED_AFTER) // self.shards.steps_per_shard
        for previous in [fetched for fetched in self._fetches if fetched < passed]:
            del self._fetches[previous]
            if self._is_remote:
                shutil.rmtree(self.path(previous).parent, ignore_errors=True)
        if index < self._last and offset >= min(PASSED_AFTER, self.shards.steps_per_shard - 1):
            self._fetch(index + 1)

    def _fetch(self, index: int) -> Callable[[], None]:
        """Start to get a shard, if nothing has; the result waits for it."""
        if index not in self._fetches:
            self._fetches[index] = background(partial(self._get, index))
        return self._fetches[index]

    def _get(self, index: int) -> None:
        path, name = self.path(index), TokenShards.name(index)
        where = f"{VARIABLE}: {self.shards.uri.rstrip('/')}/{name}"
        kind = StorageError if self._is_remote else DataError
        if self._is_remote:
            store = open_store(self.shards.uri, VARIABLE, self._addressing_style)
            if entry := store.stat(name):
                download(store, [entry], path.parent)
        try:
            digest = sha256_of([path])
        except FileNotFoundError as error:
            raise kind(f"{where} is missing; prepare the data again") from error
        except OSError as error:
            raise storage_error(error, f"{where}: cannot be read") from error
        if digest != (expected := self.shards.sha256[index]):
            raise kind(f"{where} is damaged: its SHA-256 is {digest}, not {expected}; prepare the data again")
