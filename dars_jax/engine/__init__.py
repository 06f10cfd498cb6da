"""The JetStream engine that samples: caches, refill, decoding and sampling stay on the devices.

Published weights and requests come in, tokens with their log-probs go out.  Imports policy and the
tokenizer.  Rollouts use session; server and openai_server answer clients; what one
replica does is in decode.
"""
