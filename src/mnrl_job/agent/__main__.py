"""Where a node's agent begins: `python -m mnrl_job.agent TASK.json`."""

from mnrl_job.system.parent_death import die_with_supervisor


def main() -> None:
    """Import torch, then live."""
    die_with_supervisor()
    from mnrl_job.agent import main as agent

    agent.main()


if __name__ == "__main__":
    main()
