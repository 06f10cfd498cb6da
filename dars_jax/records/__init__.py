"""What a run leaves behind: metrics, checkpoints with checksums, rollouts of steps not yet in
one, a line that says how far it is.

States and numbers come in, files go out, and states again.  Imports rollout for what it counts.
"""
