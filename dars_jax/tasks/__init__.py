"""The embedded tasks: problems to draw, answers to check, a tokenizer for them.

Nothing comes in but a seed; problems and an exact check go out.  Imports nothing of ours.
"""
