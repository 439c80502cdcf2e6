"""PID 1 of the container: heeds signals from its first moment on, then supervises the trainer.

    python -m job.supervise

Environment: EVENGRAD_SPEC (default /job/spec.json), EVENGRAD_STORE (a directory or s3://…; default
runs), RUN_ID (default: the pod's id, else a new one), EVENGRAD_ANY_SPEC=1 (run a spec that is not
the baked one), EVENGRAD_GRACE (seconds that a signal leaves for a last checkpoint; default 5), and
what makes it one machine of several (job.launch).
"""

import os
import signal
import sys


def main() -> int:
    """The container's life; returns its exit code, and in a pod does not return."""
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):  # which PID 1 ignores until it has a handler
        signal.signal(number, lambda number, _: told.append(number))
    from job.supervisor import live  # takes its time

    return live(os.environ, told)


if __name__ == "__main__":
    sys.exit(main())
