"""What the scripts in launch/ do, as functions: train, evaluate, export, serve, compile_tpu.

A configuration and a working directory come in, an exit code goes out.  Imports everything below.
`cli` (flags, one-line errors) and `startup` are what commands share.
"""
