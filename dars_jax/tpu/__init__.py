"""The programs of a step compiled for TPU slices that are not there, and what they cost.

A plan and the name of a slice come in; memory, FLOPs, collectives and an estimate of the step go
out.  Imports setup, engine and learner.  `topology` must be imported before jax is.
"""
