"""The policy: a decoder, its attention, and where its weights lie, on devices and on disk.

Token ids and parameters come in, hidden states go out, and model directories both ways.  Imports
nothing of ours but types.  Others use decoder, attention, sharding and weights.
"""
