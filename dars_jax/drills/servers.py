"""Attacks on the two servers, over sockets: does each keep what it promises?

    python -m dars_jax.drills.servers
    python -m dars_jax.drills.servers --api openai --clients 200

Starts launch/serve.py with a random policy of the embedded size and comes to it as

crowd     many clients at once, four times: every answer is the one that was given alone, and from
          the second time on neither memory nor handles nor threads grow
leavers   as many that hang up within their answers: the slots are free again
slow      some that read a byte a second, or nothing, while their answers go on: others are served
          as fast as beside readers that do read, and who reads nothing is cut
silent    connections on which half a request comes and then nothing: they are closed
wrong     requests that are none: a reason of one line, or the connection is closed
flood     bodies without end: refused, and not kept in memory
stop      SIGTERM: answers in work come to their end, others are refused, exit code 143
stop_late SIGTERM with more work than ten seconds hold: it ends then, all the same
stop_now  a second signal: it ends at once

Prints a JSON line for each, with its figures and what was not as promised, and exits with 1 if
anything was not.  Needs a checkout, for launch/, and Linux.
"""

import argparse
import asyncio
import contextlib
import functools
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dars_jax.drills.grpc_client import GrpcClients
from dars_jax.drills.http_client import HttpClients
from dars_jax.policy import decoder, weights
from dars_jax.tasks import countdown

REPO = Path(__file__).resolve().parents[2]
SLOTS, TOKENS, LONG = 16, 24, 256  # of a server, of a short answer, of a long one
PROMPTS = [f"{a} 7 {b} = {a * b} :" for a in range(2, 7) for b in range(9, 13)]
ENDLESS = PROMPTS[4]  # its answer has no EOS
MODEL = "attacked" * 20  # its name is in each part of a stream: long, to fill buffers soon
MOST_MB = 32.0  # growth of resident memory that is noise
BOUND = 10.0  # seconds that answers in work are given

Clients = HttpClients | GrpcClients
Report = tuple[dict[str, Any], list[str]]  # figures, and what was not as promised


class Served:
    """A server in a process of its own."""

    def __init__(self, directory: Path, api: str):
        self._log = directory / "log"
        flags = {
            "policy.path": directory / "policy", "rollout.max_tokens": LONG,
            "rollout.slots": SLOTS, "data.max_prompt_tokens": 64, "learner.row_tokens": 512,
        }  # fmt: skip
        command = [sys.executable, str(REPO / "launch" / "serve.py"), "--initial", "--port=0",
                   f"--api={api}", "--temperature=0", f"--workdir={directory / MODEL}",
                   f"--config={REPO / 'configs' / 'grpo.py'}",
                   *(f"--config.{key}={value}" for key, value in flags.items())]  # fmt: skip
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=REPO)
        while not self.log() or not self.log()[0].startswith("serving "):
            if self.process.poll() is not None:
                raise RuntimeError(f"no server: {self._log.read_text()}")
            time.sleep(0.05)
        address = self.log()[0].split(" on ")[1].split(": ")[0]
        kind = HttpClients if api == "openai" else GrpcClients
        self.clients: Clients = kind(address, MODEL)

    def log(self) -> list[str]:
        """What it has printed."""
        return self._log.read_text().splitlines()

    def figures(self) -> dict[str, float]:
        """Resident memory in MB, open handles, threads."""
        proc = Path("/proc") / str(self.process.pid)
        pages = int((proc / "statm").read_text().split()[1])
        return {
            "resident_mb": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1),
            "handles": len(list((proc / "fd").iterdir())),
            "threads": len(list((proc / "task").iterdir())),
        }

    async def ended(self, signals: int = 1) -> dict[str, Any]:
        """Sends SIGTERM -> its exit code, seconds until it said that it has stopped, and was gone.

        Python takes its time to clear up in between.
        """
        begin = time.monotonic()
        for _ in range(signals):
            self.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(2)  # two at once are one
        while len(self.log()) < 2 and self.process.poll() is None:
            await asyncio.sleep(0.05)
        stopped = time.monotonic() - begin
        code = await asyncio.to_thread(self.process.wait, 120)
        gone = time.monotonic() - begin
        return {"exit_code": code, "stopped_after_seconds": round(stopped, 1),
                "gone_after_seconds": round(gone, 1), "log_lines": len(self.log())}  # fmt: skip

    async def handles_down_to(self, most: float, seconds: float) -> float | None:
        """Seconds until it had no more handles; None: it kept more."""
        begin = time.monotonic()
        while self.figures()["handles"] > most:
            if time.monotonic() - begin > seconds:
                return None
            await asyncio.sleep(0.1)
        return round(time.monotonic() - begin, 1)


@contextlib.contextmanager
def serving(directory: Path, api: str) -> Iterator[Served]:
    """A server that is gone afterwards."""
    served = Served(directory, api)
    try:
        yield served
    finally:
        served.process.kill()
        served.process.wait()


async def timed(work: Awaitable[Any]) -> tuple[float, Any]:
    """(seconds, its result or error)."""
    begin = time.monotonic()
    try:
        result = await asyncio.wait_for(work, 300)
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        result = error
    return round(time.monotonic() - begin, 2), result


async def crowd(served: Served, clients: int) -> Report:
    """Many at once."""
    ask = served.clients.ask
    alone = [await ask(prompt, TOKENS, i) for i, prompt in enumerate(PROMPTS)]
    rounds, wrong = [], []
    for number in range(4):
        begin = time.monotonic()
        got = await asyncio.gather(
            *(timed(ask(PROMPTS[i % len(PROMPTS)], TOKENS, i // 2)) for i in range(clients))
        )
        other = sum(got[i][1] != alone[i % len(PROMPTS)] for i in range(clients))
        if other:
            wrong.append(f"round {number}: {other} answers are not those given alone")
        await asyncio.sleep(1)
        seconds = [s for s, _ in got]
        rounds.append(
            {"seconds": round(time.monotonic() - begin - 1, 1), "slowest": max(seconds),
             "median": round(statistics.median(seconds), 2)} | served.figures()
        )  # fmt: skip
    for key, most in (("resident_mb", MOST_MB), ("handles", 0), ("threads", 0)):
        if rounds[-1][key] > rounds[1][key] + most:
            wrong.append(f"{key} grew from {rounds[1][key]} to {rounds[-1][key]}")
    return {"clients": clients, "different_answers": len(set(alone)), "rounds": rounds}, wrong


async def leavers(served: Served, clients: int) -> Report:
    """Those that hang up."""
    before = served.figures()
    work, _ = await timed(served.clients.ask(ENDLESS, LONG, 0))
    await asyncio.gather(
        *(timed(served.clients.leave(PROMPTS[i % len(PROMPTS)], LONG, i)) for i in range(clients))
    )
    seconds, answer = await timed(served.clients.ask(PROMPTS[0], 1, 1))
    gc.collect()  # calls of grpc's clients keep their connections until then
    back = await served.handles_down_to(before["handles"], 10)
    wrong = [] if back is not None else ["handles were left behind"]
    if isinstance(answer, Exception) or seconds > max(5, 3 * work):
        wrong.append(f"a new client waited for {seconds} s: {answer}")
    if served.figures()["threads"] > before["threads"]:
        wrong.append("threads were left behind")
    return {"clients": clients, "one_whole_answer_seconds": work,
            "new_client_seconds": seconds} | served.figures(), wrong  # fmt: skip


async def slow(served: Served, clients: int) -> Report:
    """Those that do not read."""
    readers = {"nothing": None, "a byte a second": 1.0}
    before = served.figures()
    seconds, wrong = [], []
    for fast in (True, False):
        begin = time.monotonic()
        taking = [
            asyncio.create_task(served.clients.take(ENDLESS, LONG, 64, 0 if fast else pace))
            for pace in readers.values()
        ]
        await asyncio.sleep(1)
        spent, answer = await timed(served.clients.ask(PROMPTS[1], 1, 1))
        seconds.append(spent)
        if isinstance(answer, Exception):
            wrong.append(f"another client got {answer!r}")
        if fast:
            await asyncio.gather(*taking)
    if seconds[1] > 2 * seconds[0] + 2:
        wrong.append("others were held up")
    _, spent = await timed(served.clients.ask(PROMPTS[1], LONG, 1))  # all answers have been made
    full = served.figures()
    if await served.handles_down_to(before["handles"], 120) is None:
        wrong.append("a connection that nobody reads was kept")
    gone = round(time.monotonic() - begin, 1)
    if full["resident_mb"] > before["resident_mb"] + 2 * MOST_MB:
        wrong.append(f"memory grew from {before['resident_mb']} to {full['resident_mb']} MB")
    for task in taking:
        task.cancel()
    await asyncio.gather(*taking, return_exceptions=True)
    return {"readers": list(readers), "other_client_seconds_beside_fast": seconds[0],
            "beside_slow": seconds[1], "gone_after_seconds": gone} | full, wrong  # fmt: skip


async def silent(served: Served, clients: int) -> Report:
    """Half a request."""
    kept = await served.clients.silent()
    return {"closed_after_seconds": kept}, [
        f"{name}: kept for {seconds} s" for name, seconds in kept.items() if seconds > 90
    ]


async def wrong(served: Served, clients: int) -> Report:
    """Requests that are none."""
    alone = await served.clients.ask(PROMPTS[0], TOKENS, 0)
    for _ in range(3):  # large ones leave their mark in the allocator's arenas, once
        before = served.figures()
        came = await served.clients.wrong()
    fine = ("4", "closed", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "INTERNAL")
    bad = [
        f"{name}: {reply[:200]}"
        for name, reply in came.items()
        if not reply.startswith(fine) or len(reply) > 500 or "\n" in reply
    ]
    if await served.clients.ask(PROMPTS[0], TOKENS, 1) != alone:
        bad.append("afterwards another answer")
    now = served.figures()
    if now["resident_mb"] > before["resident_mb"] + MOST_MB:
        bad.append(f"memory grew from {before['resident_mb']} to {now['resident_mb']} MB")
    heads = [reply.split()[0] for reply in came.values()]
    return {"requests": len(came), "replies": {h: heads.count(h) for h in heads}} | now, bad


async def flood(served: Served, clients: int) -> Report:
    """Bodies without end."""
    before = served.figures()["resident_mb"]
    flooding = asyncio.create_task(served.clients.flood())
    most = before
    while not flooding.done():
        most = max(most, served.figures()["resident_mb"])
        await asyncio.sleep(0.01)
    reply = flooding.result()
    fine = reply.startswith(("413", "RESOURCE_EXHAUSTED", "closed")) and most < before + MOST_MB
    return {"reply": reply[:100], "grown_mb": round(most - before, 1)}, [] if fine else [reply]


async def stop(served: Served, clients: int) -> Report:
    """SIGTERM within answers."""
    ask, bad = served.clients.ask, []
    alone = await ask(ENDLESS, LONG, 0)
    answers = asyncio.gather(*(timed(ask(ENDLESS, LONG, i)) for i in range(SLOTS // 2)))
    await asyncio.sleep(0.2)
    ending = asyncio.create_task(served.ended())
    await asyncio.sleep(0.3)
    if not await served.clients.refused():
        bad.append("a new client was served")
    whole = sum(answer == alone for _, answer in await answers)
    end = await ending
    if whole < SLOTS // 2 or end["exit_code"] != 143:
        bad.append(f"exit code {end['exit_code']}, {whole} of {SLOTS // 2} answers whole")
    if served.log()[1:] != ["stopped by SIGTERM"]:
        bad.append("its log: " + " | ".join(served.log())[-500:])
    return {"answers": whole} | end, bad


async def _stop_with_much(served: Served, signals: int) -> Report:
    taking = asyncio.gather(*(timed(served.clients.take(ENDLESS, LONG, 500, 0)) for _ in range(2)))
    await asyncio.sleep(1)
    end = await served.ended(signals)
    await taking
    code, most = (143, BOUND + 5) if signals == 1 else (-signal.SIGTERM, 5)
    bad = []
    if end["exit_code"] != code or end["stopped_after_seconds"] > most:
        bad.append("another end than promised")
    if len(served.log()) != 3 - signals:
        bad.append("its log: " + " | ".join(served.log())[-500:])
    return end, bad


async def stop_late(served: Served, clients: int) -> Report:
    """SIGTERM with too much work."""
    return await _stop_with_much(served, 1)


async def stop_now(served: Served, clients: int) -> Report:
    """Two signals."""
    return await _stop_with_much(served, 2)


ATTACKS: list[list[Callable[[Served, int], Coroutine[Any, Any, Report]]]] = [  # on one server each
    [crowd, leavers, wrong, flood, slow, silent, stop], [stop_late], [stop_now],
]  # fmt: skip


def drill(directory: Path, apis: list[str], clients: int) -> int:
    """Runs the attacks, prints their lines -> how many promises were not kept."""
    config = decoder.ARCHITECTURES["countdown"]
    params = jax.jit(functools.partial(decoder.init_params, config))(jax.random.key(0))
    policy = directory / "policy"
    weights.save_params(policy, params, config, source=None, dtype=jnp.float32)
    countdown.train_tokenizer(policy / "tokenizer.model")
    broken = 0
    for api in apis:
        for group in ATTACKS:
            with serving(directory, api) as served:
                for attack in group:
                    begin = time.monotonic()
                    figures, bad = asyncio.run(attack(served, clients))
                    broken += bool(bad)
                    line = {"api": api, "attack": attack.__name__, "kept": not bad} | figures
                    line |= {"drill_seconds": round(time.monotonic() - begin, 1), "wrong": bad}
                    print(json.dumps(line), flush=True)
    return broken


def main() -> int:
    """Parses the command line and runs the drill; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dars_jax.drills.servers", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--clients", type=int, default=200, help="at once (default 200)")
    parser.add_argument("--api", choices=["jetstream", "openai"], help="one of them alone")
    args = parser.parse_args()
    if args.clients < 1:
        parser.error(f"--clients must be at least 1, got {args.clients}")
    with tempfile.TemporaryDirectory(prefix="servers_drill_") as directory:
        apis = [args.api] if args.api else ["openai", "jetstream"]
        return int(drill(Path(directory), apis, args.clients) > 0)


if __name__ == "__main__":
    sys.exit(main())
