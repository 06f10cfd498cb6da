"""Prompts: rows of a source become token ids, in the order in which training takes them.

A file or TFDS name and a model's tokenizer come in; `prompts.Examples` go out.  Imports tasks,
whose datasets it prepares.
"""
