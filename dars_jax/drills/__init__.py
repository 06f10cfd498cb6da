"""Slow proofs as commands: kill a run, soak an engine, attack the grader.

Imports what it tries to break.  Nothing imports it.
"""
