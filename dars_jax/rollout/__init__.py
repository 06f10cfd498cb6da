"""The rollouts of a step: sampled, graded as they finish, topped up where it pays.

Prompts and an engine session come in, graded `types.Rollouts` go out.  Imports allocator, rewards
and engine.  `stages.collect` is the way in; `scheduler` decides who is sampled next, and where.
"""
