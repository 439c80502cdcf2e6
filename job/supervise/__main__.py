"""PID 1 of the container: handles signals from its first moment, then supervises the trainer.

    python -m job.supervise

Environment: EVENGRAD_SPEC (default /job/spec.json), EVENGRAD_STORE (a directory or s3://…; default
runs), RUN_ID (default: the pod's id, else a new one), EVENGRAD_ANY_SPEC=1 (run a spec that is not
the baked one), EVENGRAD_GRACE (seconds that a signal leaves for a last checkpoint; default 5), and
for one machine of several the variables in job.supervise.launch.
"""

import os
import signal
import sys
import time
from collections.abc import Callable


def main(clock: Callable[[], float] = time.monotonic) -> int:
    """Run the container; returns its exit code, and never returns in a pod.

    clock: in seconds; by it the spec's limits are held.
    """
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):  # PID 1 ignores them until it has a handler
        signal.signal(number, lambda number, _: received.append(number))
    from job.supervise.supervisor import run_container  # the import takes a while

    return run_container(os.environ, received, clock)


if __name__ == "__main__":
    sys.exit(main())
