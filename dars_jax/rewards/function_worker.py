"""The process that calls a reward function of the user's own: JSON lines in, JSON lines out.

Trusted code on untrusted answers: it may read files and ask servers, but a call has a limit of
CPU time and the process one of memory, and nothing that happens here can stop the trainer.  What
the function prints goes to standard error.
"""

import json
import os
import resource
import signal
import sys

from dars_jax.rewards import functions, lifeline


def main(name: str, cpu_limit_s: float, memory_limit: int, life: int) -> None:
    """Serves until stdin ends.

    Args:
      cpu_limit_s: of each answer.
      memory_limit: bytes.
      life: see lifeline.tie.
    """
    lifeline.tie(life)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer
    replies = os.dup(1)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    function = functions.load(name)
    resource.setrlimit(resource.RLIMIT_DATA, (memory_limit, memory_limit))
    os.write(replies, b'{"ready": true}\n')
    for line in sys.stdin.buffer:
        item = json.loads(line)
        # The signal's default action ends the process, also inside a C loop.
        signal.setitimer(signal.ITIMER_PROF, cpu_limit_s * len(item["calls"]))
        outcomes = functions.rewards(function, item["calls"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        reply = json.dumps({"id": item["id"], "outcomes": outcomes}).encode() + b"\n"
        while reply:
            reply = reply[os.write(replies, reply) :]
