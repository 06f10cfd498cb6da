"""Benchmarks: python -m dars_jax.bench NAME prints JSON lines.

Imports the stations that it times.  Nothing imports it.
"""
