"""When two mathematical answers are equal: reading them, and the rules that compare them.

Two spellings come in; yes, no or "unreadable" goes out.  `rules` is the way in; `by_math_verify`
is asked about what `rules` cannot read.  Imports nothing else of ours, runs in grading workers.
"""
