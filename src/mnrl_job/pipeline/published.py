"""Whether a run is published already."""

from contextlib import suppress

from mnrl_job.config.settings import Settings
from mnrl_job.data.listing import find_other, listings_in_reach
from mnrl_job.errors import DataError, JobError
from mnrl_job.runs.attempt import Attempt
from mnrl_job.runs.publish import already_published, remove_leftovers
from mnrl_job.storage import Store


def finished_before(settings: Settings, place: Attempt, store: Store) -> bool:
    """Whether the run stands there already; if so, nothing that a killed attempt left stays beside it.

    Raises:
        JobError: it was made with other settings, or of other data.
    """
    if not published_before(settings, place, store):
        return False
    with suppress(JobError):  # who may only read still learns that it is finished
        remove_leftovers(store)
    return True


def published_before(settings: Settings, place: Attempt, store: Store) -> bool:
    """Whether the run stands there already, made of what its inputs are now; one that is gone tells nothing.

    Raises:
        SettingsError: it was made with other settings.
        DataError: it was made of other data.
    """
    manifest = already_published(store, place.settings_hash)
    if manifest is None:
        return False
    was = manifest.get("inputs_listing")
    if was and place.nodes.is_first and (other := find_other(was, listings_in_reach(settings))):
        raise DataError(
            f"{other}: {place.run} was published from other data; go back to that, or choose another MNRL_RUN_ID"
        )
    return True
