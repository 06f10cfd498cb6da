"""The loop: a step as a row of calls.  Start reading at `loop.py`.

The parts of a run and a working directory come in; a trained policy, metrics and checkpoints are
left behind.  Imports every room that a step passes through.
"""
