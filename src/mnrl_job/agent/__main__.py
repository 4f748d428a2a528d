"""Entry point of a node's agent: `python -m mnrl_job.agent TASK.json`."""

from mnrl_job.system.parent_death import die_with_supervisor


def main() -> None:
    """Import torch, which takes seconds, then run."""
    die_with_supervisor()
    from mnrl_job.agent import main as agent

    agent.main()


if __name__ == "__main__":
    main()
