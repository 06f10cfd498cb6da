"""What a run leaves behind: metrics, checkpoints with checksums, a line that says how far it is.

States and numbers come in, files go out, and states again.  Imports rollout for what it counts.
"""
