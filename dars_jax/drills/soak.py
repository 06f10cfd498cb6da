"""Many short requests through one set of compiled programs: does anything grow, or compile again?

    python -m dars_jax.drills.soak --requests 100000

A session of 64 prompts x 16 requests of 1 to 8 tokens each is opened, worked off and dropped, as
each step of training does, until there were that many requests.  Prints JSON lines: requests so
far, resident memory, bytes and number of live arrays, programs compiled.  Exits with 1 if after
the first tenth a program is compiled, the live arrays change, or resident memory grows by more than
--tolerance_mb; or if the first session's requests, asked again at the end, are answered otherwise.
"""

import argparse
import collections
import functools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dars_jax.engine.programs import Programs
from dars_jax.engine.session import Request, SamplingConfig, Session
from dars_jax.engine.state import DecodeConfig
from dars_jax.policy import decoder, sharding

PROMPTS, SAMPLES, TOKENS = 64, 16, 8
LINES = 20  # reports


class Compilations:
    """Counts the programs that XLA compiles in this process from now on, by name."""

    def __init__(self) -> None:
        self.by_name: collections.Counter[str] = collections.Counter()
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    @property
    def count(self) -> int:
        """All of them."""
        return self.by_name.total()

    def _listen(self, event: str, duration_secs: float, **about: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.by_name[str(about.get("fun_name", ""))] += 1


def resident_mb() -> float:
    """Memory of this process that is in RAM now, in 10^6 bytes; Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def work(programs: Programs, params: decoder.Params, step: int) -> list[list[int]]:
    """One session of PROMPTS * SAMPLES requests -> their answers."""
    rng = np.random.default_rng(step)
    vocab = programs.model_config.vocab_size
    session = Session(programs, params, PROMPTS)
    session.prefill([(0, p, rng.integers(0, vocab, TOKENS).astype(np.int32))
                     for p in range(PROMPTS)])  # fmt: skip
    session.enqueue(
        [Request(0, i, i // SAMPLES, (0, step, 0, i // SAMPLES, i % SAMPLES), 1 + i % TOKENS)
         for i in range(PROMPTS * SAMPLES)],
        SamplingConfig(max_tokens=TOKENS),
    )  # fmt: skip
    answers: dict[tuple[int, int], Any] = {}
    idle = False
    while not idle:
        session.start(4)
        progress = session.finish()
        answers |= session.drain(progress.finished)
        idle = progress.idle
    return [answers[0, i][0].tolist() for i in range(PROMPTS * SAMPLES)]


def soak(requests: int, tolerance_mb: float) -> list[str]:
    """Prints the lines -> what went wrong."""
    compilations = Compilations()
    config = decoder.ARCHITECTURES["countdown"]
    decode = DecodeConfig(
        slots=64, prefixes=PROMPTS, requests=PROMPTS * SAMPLES, prompt_tokens=TOKENS,
        response_tokens=TOKENS, eos_ids=(-1,),  # none: the limits are the lengths, every time
        filters=False, dtype=jnp.dtype("float32"),
    )  # fmt: skip
    programs = Programs(decode, config, sharding.make_mesh(1, 1, 1, jax.devices()[:1]))
    params = programs.publish(
        jax.jit(functools.partial(decoder.init_params, config))(jax.random.key(0))
    )
    rounds = max(10, -(-requests // (PROMPTS * SAMPLES)))
    begin, first, before, wrong = time.perf_counter(), None, None, []
    for step in range(rounds):
        answers = work(programs, params, step)
        first = first or answers
        if [len(a) for a in answers] != [1 + i % TOKENS for i in range(len(answers))]:
            wrong.append(f"session {step}: an answer has another length than its limit")
        done = step + 1
        warm = done == rounds // 10
        if warm or done == rounds or done % max(1, rounds // LINES) == 0:
            live = jax.live_arrays()
            now = {
                "requests": done * PROMPTS * SAMPLES,
                "resident_mb": round(resident_mb(), 1),
                "live_arrays": len(live),
                "live_bytes": sum(x.nbytes for x in live),
                "programs": compilations.count,
                "seconds": round(time.perf_counter() - begin, 1),
            }
            print(json.dumps(now | {"warm": True} if warm else now), flush=True)
            before = now if warm else before
    assert before is not None  # there are ten rounds at least
    for key in ("live_arrays", "live_bytes", "programs"):
        if now[key] != before[key]:
            wrong.append(f"{key}: {before[key]} after the first tenth, {now[key]} at the end")
    grown = now["resident_mb"] - before["resident_mb"]
    if grown > tolerance_mb:
        wrong.append(f"resident memory grew by {grown:.1f} MB after the first tenth")
    if work(programs, params, 0) != first:
        wrong.append("the first session's requests got other answers when asked again")
    return wrong


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=100_000, help="at least 10 sessions' worth")
    parser.add_argument("--tolerance_mb", type=float, default=16.0, help="growth that is noise")
    arguments = parser.parse_args()
    wrong = soak(arguments.requests, arguments.tolerance_mb)
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
