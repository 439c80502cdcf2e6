"""What a GPU alone can show: `make test-gpu`. Where it is cheap, each test runs on the CPU too."""
