"""The update: graded groups packed into rows, and full-batch epochs over them as one program.

Rollouts with advantages and the TrainState come in, the next TrainState and its metrics go out.
Imports objective and policy.  `memory` says by arithmetic what fits.
"""
