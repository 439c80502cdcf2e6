"""`python -m deploy`: lists the commands."""

from __future__ import annotations

COMMANDS = {
    "submit": "run a spec on RunPod, and follow it to its verdict",
    "logs": "print a run's events",
    "status": "print the state of a run",
    "list": "list runs that have not finished, and pods that cost money",
    "cancel": "end a run for good",
    "fetch": "download a run's weights, spec and result",
    "diff": "show two runs side by side",
    "report": "write a page of one run, or of several side by side",
    "reap": "end every pod of ours that should not live",
    "doctor": "check key, clock, store, secrets and image",
}

if __name__ == "__main__":
    for name, summary in COMMANDS.items():
        print(f"  python -m deploy.{name:<8} {summary}")
