"""`python -m job`: see job/cli."""

from job.cli.app import main

if __name__ == "__main__":
    main()
