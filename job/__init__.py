"""The training job: what runs in the container."""
