"""Evaluation: answers to held-out problems, Avg@n and Pass@k with intervals, reports.

A policy and benchmarks come in, answers and their scores go out.  Imports setup for the parts and
rollout for sampling.  `scores`, `benchmarks` and `report` work without JAX.
"""
