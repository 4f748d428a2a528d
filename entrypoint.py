"""`python entrypoint.py COMMAND` and the installed `mnrl-job COMMAND` are the same program."""

from mnrl_job.start import main

if __name__ == "__main__":
    main()
