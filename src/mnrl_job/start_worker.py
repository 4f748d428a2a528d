"""Where a worker process begins: `python -m mnrl_job.start_worker ROLE TASK.json`."""

import gc


def main() -> None:
    """Import everything with the garbage collector out of the way, a fifth sooner, then wait for the task."""
    gc.disable()
    from mnrl_job import worker

    gc.freeze()
    gc.enable()
    worker.main()


if __name__ == "__main__":
    main()
