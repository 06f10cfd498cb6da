"""Workers end with their trainer, however it ends and whatever they are doing."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

TESTS = pathlib.Path(__file__).resolve().parent

# A trainer whose workers are all at work on what never ends, and that says who they are.
TRAINER = """
import os, pathlib, sys, time
from dars_jax.rewards import load_grader
how, name, answer = sys.argv[1:]
grader = load_grader(name, num_workers=2, cpu_limit_s=1e6, timeout_s=1e6)
for i in range(40):
    grader.submit(i, answer % i, "4")
pool = grader._pool
while len(pool._workers) < 2 or not all(w.ready for w in pool._workers):
    pool.poll(wait=False)
    time.sleep(0.01)
time.sleep(1)  # they are at it
print(*pool.worker_ids(), flush=True)
if how.isdigit():
    os._exit(int(how))
time.sleep(1e6)
"""
SLEEPS = "test_orphans:sleeps", "%d"
SPINS = "test_orphans:spins", "%d"
ALGEBRA = "math", r"\boxed{\int \frac{\sin(x^{3%d})}{x+e^x} dx}"


def sleeps(response, gold):
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
    while True:
        time.sleep(1e6)


def spins(response, gold):
    sum(range(10**15))  # in C, with the interpreter held


def runs(pid):
    """Whether a process is there; a zombie is not."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def state_after(how, hang):
    """Exit code of a trainer that ends in a way, and which of its workers are left."""
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parents[1]}{os.pathsep}{TESTS}"}
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER, how, *hang], env=environment,
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    pids = [int(pid) for pid in trainer.stdout.readline().split()]
    assert len(pids) == 2
    if how == "killed":
        assert all(map(runs, pids))
        trainer.kill()
    code = trainer.wait(timeout=60)
    trainer.stdout.close()
    end = time.monotonic() + 20
    while any(map(runs, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    left = [pid for pid in pids if runs(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return code, left


@pytest.mark.parametrize("hang", [SLEEPS, SPINS, ALGEBRA], ids=["sleeps", "spins", "algebra"])
@pytest.mark.parametrize(("how", "code"), [("killed", -signal.SIGKILL), ("8", 8)])
def test_no_worker_outlives_its_trainer(how, code, hang):
    assert state_after(how, hang) == (code, [])
