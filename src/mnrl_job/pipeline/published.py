"""Whether a run is already published."""

from contextlib import suppress

from mnrl_job.config.settings import Settings
from mnrl_job.data.listing import find_changed_input, list_available_inputs
from mnrl_job.errors import DataError, JobError
from mnrl_job.pipeline.inputs import input_uris
from mnrl_job.runs.attempt import Attempt
from mnrl_job.runs.publish import already_published, remove_leftovers
from mnrl_job.storage import Store


def finish_if_published(settings: Settings, attempt: Attempt, store: Store) -> bool:
    """Whether the run is already published; if so, leftovers of killed attempts are removed.

    Raises:
        JobError: it was published with other settings or from other data.
    """
    if not is_published(settings, attempt, store):
        return False
    with suppress(JobError):  # with read-only access the answer is the same
        remove_leftovers(store)
    return True


def is_published(settings: Settings, attempt: Attempt, store: Store) -> bool:
    """Whether the run is already published from these inputs. Inputs that no longer exist are not compared.

    Raises:
        SettingsError: it was published with other settings.
        DataError: it was published from other data.
    """
    manifest = already_published(store, attempt.settings_hash)
    if manifest is None:
        return False
    before = manifest.get("inputs_listing")
    if not before or not attempt.nodes.is_first:
        return True
    if changed := find_changed_input(before, list_available_inputs(input_uris(settings), settings.accelerate_config)):
        raise DataError(
            f"{changed}: {attempt.run_uri} was published from other data; go back to that, or choose another "
            "MNRL_RUN_ID"
        )
    return True
