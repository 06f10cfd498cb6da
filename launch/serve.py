"""Serves a trained policy through JetStream's gRPC service, or to OpenAI's clients.

    python launch/serve.py --config configs/dars_b.py --workdir runs/dars_b
    python launch/serve.py --config configs/dars_b.py --workdir runs/dars_b --api openai

With --api openai the address has /v1/completions, /v1/chat/completions and /v1/models; the model's
name is that of the working directory (here dars_b), and a request sets its own sampling.
Serves the newest checkpoint in the working directory.  Sampling is that of the rollouts but for
--temperature.  The n-th request that arrives gets the same answer from every server with the same
policy and --seed, whatever slot it gets and whoever else is served.  SIGINT or SIGTERM lets answers
in work end within 10 seconds and exits with 130 or 143.
"""

import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout that is not installed

from dars_jax.commands import cli
from dars_jax.commands.cli import flags

_API = flags.DEFINE_enum(
    "api", "jetstream", ["jetstream", "openai"], "who can ask: JetStream's clients by gRPC, or "
    "OpenAI's by HTTP (needs the extra `serve`)",
)  # fmt: skip
_HOST = flags.DEFINE_string("host", "127.0.0.1", "address to listen on; anybody may ask there")
_PORT = flags.DEFINE_integer("port", 9000, "0 takes a free one", lower_bound=0, upper_bound=65535)
_INITIAL = flags.DEFINE_bool("initial", False, "serve the policy that training starts from")
_TEMPERATURE = flags.DEFINE_float(
    "temperature", None, "0 is greedy (default: rollout.temperature)", lower_bound=0.0
)
_SEED = flags.DEFINE_integer("seed", 0, "of the sampling", lower_bound=0, upper_bound=2**31 - 1)
_STEPS = flags.DEFINE_integer(
    "steps_per_dispatch", 1, "K, tokens that one message of the stream carries", lower_bound=1
)


def main() -> int:
    """Until it is stopped."""
    try:
        family = socket.AF_INET6 if ":" in _HOST.value else socket.AF_INET
        socket.create_server((_HOST.value, _PORT.value), family=family).close()
    except OSError as error:
        cli.fail(f"cannot listen on --host {_HOST.value} --port {_PORT.value}: {error.strerror}")
    config, workdir = cli.config_and_workdir()
    with cli.quiet_native_code():  # heavy: only now that the command line is known to be right
        from dars_jax.commands import serve

    return serve.serve(
        config, workdir, api=_API.value, host=_HOST.value, port=_PORT.value, initial=_INITIAL.value,
        temperature=_TEMPERATURE.value, seed=_SEED.value, steps=_STEPS.value,
    )  # fmt: skip


if __name__ == "__main__":
    cli.start(main, __doc__)
