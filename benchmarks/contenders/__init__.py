"""What the pipeline is compared with, each in a process of its own: `python -m benchmarks.contenders NAME`."""
