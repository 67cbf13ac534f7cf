"""Search over training runs: work units, promotion, executors (inline, Ray Tune), the loop.

Nothing is imported here, so that a worker loads only what units need.
"""
