"""Runs side by side: what each says, how sure that is, what it means for the paper's claims.

Reads finished working directories and trains nothing.
"""
