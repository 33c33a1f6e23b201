"""The parts of ``python -m benchmarks.gpu_check``: each writes a line of JSON for what it has measured, at once."""
