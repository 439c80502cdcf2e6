"""`python -m job`: see job/cli."""

import sys

from job.exit_codes import ABORTED

if __name__ == "__main__":
    try:
        from job.cli.app import main

        main()
    except KeyboardInterrupt:  # while modules are loaded
        sys.exit(ABORTED)
