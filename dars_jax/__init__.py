"""RL with verifiable rewards in JAX: DARS and DARS-B (arXiv 2508.13755).

Importing this package imports nothing else; take what you need from its modules.
"""

__version__ = "0.1.0"
