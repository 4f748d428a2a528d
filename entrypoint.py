"""`python entrypoint.py COMMAND` and the installed `mnrl-job COMMAND` are the same program."""

import sys

from mnrl_job.start import main

if __name__ == "__main__":
    sys.exit(main())
