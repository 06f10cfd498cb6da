"""What each of several hosts holds of a step's rollouts, measured in processes of this machine.

    python -m dars_jax.bench.hosts --hosts 8 --answers 64 --mean 512

Every process stands for a host: it has the answers to its share of the prompts, hears of the
others', decides on the packing, exchanges tokens and lays out the rows of its own devices, by the
code of the trainer.  Nothing is sampled or learned; lengths are geometric.  Prints a JSON line: of
the process where it is most, the bytes of what it holds and how much its memory rose at most, and
the seconds of the slowest.  The defaults are the step of `configs/dars_b.py:qwen2.5-math-7b` with
the 18 answers a prompt that docs/pods.md expects of it.
"""

import argparse
import dataclasses
import json
import resource
import socket
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np

from dars_jax import distributed
from dars_jax.learner import packing
from dars_jax.policy import sharding
from dars_jax.rollout import exchange
from dars_jax.types import Prompts, Ragged, Rollouts

_MB = 2**20


@dataclasses.dataclass(frozen=True)
class Step:
    """The rollouts of a step, and the rows they are packed into.  Sizes are counts."""

    prompts: int = 3072
    answers: int = 18  # to each prompt
    mean: int = 1024  # tokens of an answer
    max_tokens: int = 3072
    prompt_tokens: int = 200
    rows: int = 256
    row_tokens: int = 4096

    def known(self) -> tuple[Prompts, dict[str, np.ndarray]]:
        """Prompts, and all fields of rollouts but tokens and holder."""
        rng, count = np.random.default_rng(0), self.prompts * self.answers
        ids = rng.integers(0, 1000, (self.prompts, self.prompt_tokens)).astype(np.int32)
        length = np.minimum(rng.geometric(1 / self.mean, count), self.max_tokens)
        prompt = np.repeat(np.arange(self.prompts, dtype=np.int32), self.answers)
        sample = np.tile(np.arange(self.answers, dtype=np.int32), self.prompts)
        right = rng.random(count) < 0.5
        return Prompts(tuple(ids), np.arange(self.prompts), (("",),) * self.prompts), {
            "prompt": prompt, "sample": sample, "stage": (sample > 7).astype(np.int32),
            "length": length.astype(np.int32), "truncated": length == self.max_tokens,
            "reward": right.astype(np.float32), "verdict": right.astype(np.int8),
        }  # fmt: skip


def resident() -> int:
    """Bytes of memory at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def one_host(step: Step) -> dict[str, Any]:
    """What this of the processes holds, in bytes, and how long it took."""
    prompts, fields = step.known()
    here = np.flatnonzero(fields["prompt"] % jax.process_count() == jax.process_index())
    fields = {name: x[here] for name, x in fields.items()}
    distributed.barrier()
    start, begin = resident(), time.perf_counter()
    rng = np.random.default_rng(jax.process_index())
    tokens = [rng.integers(0, 150_000, n, np.int32) for n in fields["length"]]
    logprob = [rng.random(n, np.float32) for n in fields["length"]]
    mine = Rollouts(**fields, tokens=Ragged.join(tokens, np.int32),
                    logprob=Ragged.join(logprob, np.float32))  # fmt: skip
    held = mine.tokens.flat.nbytes + mine.logprob.flat.nbytes
    del tokens, logprob
    clock = [time.perf_counter()]

    def lap() -> float:
        clock.append(time.perf_counter())
        return round(clock[-1] - clock[-2], 2)

    known = exchange.gather(mine)
    del mine
    seconds = {"gather": lap()}
    mesh = sharding.make_mesh(1, jax.device_count(), 1)
    needed = packing.capacity(step.prompts, step.answers, step.prompt_tokens, step.max_tokens,
                              step.row_tokens, 1)  # fmt: skip
    shape = packing.BatchShape(step.rows, -(-needed // step.rows), step.row_tokens, False)
    weight, kept = np.ones(len(known), np.float32), np.ones(step.prompts, bool)
    zeros = np.zeros(step.prompts, np.int32)
    layout = packing.arrange(prompts, known, weight, kept, zeros, 1, shape)
    seconds["arrange"] = lap()
    process = sharding.row_process(mesh, step.rows)
    to = process[layout.row_of(len(known))]
    away = int(known.length[(known.holder != to) & (known.holder == jax.process_index())].sum())
    needs = exchange.send(known, to)
    seconds["send"] = lap()
    rows = np.flatnonzero(process == jax.process_index())
    batch = packing.lay_out(layout, prompts, needs, weight, weight, rows)
    seconds["lay_out"] = lap()
    about = [x for x in vars(known).values() if isinstance(x, np.ndarray)]
    about += [y for x in (known.tokens, known.logprob) for y in (x.start, x.length)]
    live = batch.tokens.nbytes * 8 * int(layout.bounds[-1]) // shape.micro_batches
    return {
        "seconds": seconds,
        "rollouts": len(known),
        "tokens": int(known.length.sum()),
        "known_mb": sum(x.nbytes for x in about) // _MB,
        "held_mb": held // _MB,
        "sent_mb": 8 * away // _MB,
        "rows_mb": live // _MB,
        "peak_mb": (resident() - start) // _MB,
        "setup_s": round(clock[0] - begin, 1),
    }


def measure(step: Step, hosts: int) -> dict[str, Any]:
    """Runs `hosts` processes; of every figure the largest of all.

    Raises:
      RuntimeError: one of them failed.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    flags = [f"--{name}={value}" for name, value in dataclasses.asdict(step).items()]
    command = [sys.executable, "-m", "dars_jax.bench.hosts", *flags, f"--hosts={hosts}"]
    group = [subprocess.Popen([*command, f"--host={port}:{i}"], stdout=subprocess.PIPE, text=True)
             for i in range(hosts)]  # fmt: skip
    told = [process.communicate()[0] for process in group]
    if any(process.returncode for process in group):
        raise RuntimeError(f"of {hosts} processes some failed: is there memory for all?")
    lines = [json.loads(text.splitlines()[-1]) for text in told]
    seconds = {name: max(line["seconds"][name] for line in lines) for name in lines[0]["seconds"]}
    largest = {name: max(line[name] for line in lines) for name in lines[0] if name != "seconds"}
    return {"what": "hosts", "hosts": hosts, **largest, "seconds": seconds}


def main() -> None:
    """Parses the command line; one of the processes, or what starts them."""
    parser = argparse.ArgumentParser(
        prog="python -m dars_jax.bench.hosts", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--hosts", type=int, default=8, help="processes (default 8)")
    parser.add_argument("--host", default="", help=argparse.SUPPRESS)
    for field in dataclasses.fields(Step):
        parser.add_argument(f"--{field.name}", type=int, default=field.default)
    args = vars(parser.parse_args())
    hosts, host = args.pop("hosts"), args.pop("host")
    if hosts < 1 or args["rows"] % hosts:
        parser.error(f"--rows {args['rows']} does not divide over --hosts {hosts}")
    if not host:
        print(json.dumps(measure(Step(**args), hosts)), flush=True)
        return
    port, index = host.split(":")
    distributed.join((f"localhost:{port}", hosts, int(index)))
    with distributed.leaving():
        print(json.dumps(one_host(Step(**args))), flush=True)


if __name__ == "__main__":
    main()
