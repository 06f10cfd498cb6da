"""launch/pod.sh: what it would run, what it refuses, and what it does when a pod goes away."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import pytest
import yaml

REPO = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = REPO / "launch" / "pod.sh"
POD = ("--name", "dars", "--zone", "us-west4-a")
TRAINING = ("--config", "configs/dars_b.py:countdown-3072", "--workdir", "/mnt/runs/a")

# Answers `describe` and the exit code of `follow` from lists; notes every call; runs what is meant
# for a worker in WORKER, if that is set.
GCLOUD = """
import json, os, pathlib, subprocess, sys
here = pathlib.Path(__file__).parent
with open(here / "calls", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
def next_of(name):
    first, *rest = (here / name).read_text().split()
    (here / name).write_text("\\n".join(rest or [first]))
    return first
command = [a.removeprefix("--command=") for a in sys.argv if a.startswith("--command=")]
if command and "WORKER" in os.environ:
    home = os.environ["WORKER"]
    sys.exit(subprocess.run(["bash", "-c", command[0]], cwd=home,
                            env=dict(os.environ, HOME=home)).returncode)
if "describe" in sys.argv:
    state = next_of("states")
    sys.exit(1) if state == "NONE" else print(state)
elif "create" in sys.argv and (here / "refuses").exists():
    sys.exit("quota")
elif "--worker=0" in sys.argv:
    sys.exit(int(next_of("codes")))
"""


def pod(*arguments, path=None, **environment):
    environment = dict(os.environ, **environment)
    if path:
        environment["PATH"] = f"{path}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False,
                          timeout=60, env=environment)  # fmt: skip


def planned(*arguments):
    """The commands that --dry-run prints, as lists of words."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    done = pod(*arguments[:end], "--dry-run", *arguments[end:], PATH=os.defpath)  # without xpk
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


@pytest.fixture
def cloud(tmp_path):
    """A directory with a gcloud that only pretends, and a sleep that does not."""
    programs = {"gcloud": f"#!{sys.executable}\n{GCLOUD}", "sleep": "#!/bin/sh\n"}
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def calls(cloud):
    """What was asked of gcloud, in a word each."""
    words = []
    for line in (cloud / "calls").read_text().splitlines():
        call = json.loads(line)
        if "--worker=0" in call:
            words.append("follow")
        elif "--worker=all" in call:
            words.append("copy" if "scp" in call else "start" if "tpu_run" in line else "worker")
        else:
            words.append(call[3])
    return words


def test_create_asks_for_the_pod_and_looks_at_it():
    ask, look = planned("create", *POD, "--type", "v5litepod-256", "--spot", "--project=p")
    assert ask == [
        "gcloud", "compute", "tpus", "queued-resources", "create", "dars", "--zone=us-west4-a",
        "--project=p", "--node-id=dars", "--accelerator-type=v5litepod-256",
        "--runtime-version=v2-alpha-tpuv5-lite", "--spot",
    ]  # fmt: skip
    assert look[3:5] == ["queued-resources", "describe"]
    (ask, _) = planned("create", *POD, "--type=v6e-8", "--version", "own")
    assert "--spot" not in ask and "--runtime-version=own" in ask


def test_install_copies_the_last_commit_to_all_workers():
    archive, copy, install = planned("install", *POD)
    assert archive[:2] == ["git", "archive"] and archive[-1] == "HEAD"
    assert copy[4] == "scp" and archive[-2] in copy and "--worker=all" in copy
    assert "--worker=all" in install and ".[train,tpu]" in install[-1]


def test_delete_gives_it_back():
    (delete,) = planned("delete", *POD)
    assert delete[3:6] == ["queued-resources", "delete", "dars"] and "--quiet" in delete


def test_up_is_all_of_it():
    def of(command, *options):
        return planned(command, *POD, *options)

    kind = ("--type", "v5p-128")
    assert of("up", *kind, *TRAINING) == [
        *of("create", *kind), *of("install"), *of("run", *TRAINING), *of("follow")
    ]  # fmt: skip


def test_every_flag_arrives_on_the_worker_as_it_was_given(cloud):
    worker = cloud / "worker"
    python = worker / "dars_jax" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > arguments\necho trained\nexit 3\n')
    python.chmod(0o755)
    odd = ['--config.data.system_prompt=it\'s "so" $HOME & \\n `x` *', "--config.seed=3"]
    started = pod("run", *POD, *TRAINING, "--", *odd, path=cloud, WORKER=str(worker))
    assert started.returncode == 0, started.stderr
    followed = pod("follow", *POD, path=cloud, WORKER=str(worker))
    assert followed.returncode == 3 and "trained" in followed.stdout
    assert (worker / "dars_jax" / "arguments").read_text().splitlines() == [
        "-u", "launch/tpu_run.py", *TRAINING, *odd
    ]  # fmt: skip


def test_a_second_start_leaves_the_first_run_alone(cloud):
    worker = cloud / "worker"
    python = worker / "dars_jax" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho begun >> begun\nwhile [ ! -e end ]; do :; done\n")
    python.chmod(0o755)
    begun = worker / "dars_jax" / "begun"
    try:
        pod("run", *POD, *TRAINING, path=cloud, WORKER=str(worker))
        while not begun.exists():
            time.sleep(0.02)
        again = pod("run", *POD, *TRAINING, path=cloud, WORKER=str(worker))
        assert again.returncode == 0 and "already running" in again.stdout
    finally:
        (worker / "dars_jax" / "end").write_text("")
    assert pod("follow", *POD, path=cloud, WORKER=str(worker)).returncode == 0
    assert begun.read_text() == "begun\n"


def test_a_bucket_is_mounted_on_every_worker(cloud):
    worker = cloud / "worker"
    (worker / "dars_jax").mkdir(parents=True)
    for name, text in (("gcsfuse", 'echo "$@" > "$HOME/mounted"'), ("mountpoint", "exit 1")):
        (cloud / name).write_text(f"#!/bin/sh\n{text}\n")
        (cloud / name).chmod(0o755)
    arguments = ("run", *POD, *TRAINING[:3], "gs://bucket/runs/a")
    assert pod(*arguments, path=cloud, WORKER=str(worker)).returncode == 0
    assert (worker / "mounted").read_text().split()[-2:] == ["bucket", f"{worker}/buckets/bucket"]
    (run,) = planned(*arguments)
    assert "--worker=all" in run and "--workdir ../buckets/bucket/runs/a" in run[-1]


JOBSET = ("jobset", *POD, "--cluster=c", "--type=v6e-64", *TRAINING[:3], "gs://bucket/runs/a")


def test_a_jobset_holds_the_last_commit_and_its_bucket():
    archive, *_, unpack, attach, create = planned(*JOBSET, "--spot", "--project=p")
    assert archive[:2] == ["git", "archive"] and archive[-1] == "HEAD"
    (source,) = [a for a in create if a.startswith("--script-dir=")]
    assert unpack[0] == "tar" and source == f"--script-dir={unpack[-1]}"
    assert attach[:4] == ["xpk", "storage", "attach", "bucket"]
    assert {"--readonly=false", "--mount-point=/buckets/bucket"} <= set(attach)
    assert create[:3] == ["xpk", "workload", "create"]
    where = {"--cluster=c", "--zone=us-west4-a", "--project=p"}
    assert where <= set(attach) and where <= set(create)
    assert {"--workload=dars", "--tpu-type=v6e-64", "--spot", "--storage=bucket"} <= set(create)
    shared = planned(*JOBSET[:-1], "/mnt/runs/a")
    assert not [a for command in shared for a in command if "storage" in a]


def test_a_jobset_starts_again_where_that_can_help():
    create = planned(*JOBSET)[-1]
    assert "--restart-on-exit-codes=1,4,6,8" in create  # besides 127 to 255, xpk's own
    assert "--max-restarts=50" in create


def test_a_jobset_runs_what_a_pod_runs_and_hears_its_signals(cloud):
    odd = ['--config.data.system_prompt=it\'s "so" $HOME & \\n `x` *', "--config.seed=3"]
    (command,) = [a for a in planned(*JOBSET, "--", *odd)[-1] if a.startswith("--command=")]
    for name, text in (("pip", ""), ("python", 'printf "%s\\n" $$ "$@"')):
        (cloud / name).write_text(f"#!/bin/sh\n{text}\n")
        (cloud / name).chmod(0o755)
    script = f"({command.removeprefix('--command=')}) & echo $! >&2; wait $!"  # as xpk runs it
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True,
                          env=dict(os.environ, PATH=f"{cloud}:{os.environ['PATH']}"))  # fmt: skip
    child, *arguments = done.stdout.splitlines()
    assert child == done.stderr.strip()  # python itself, no shell before it
    assert arguments == ["-u", "launch/tpu_run.py", *TRAINING[:3], "/buckets/bucket/runs/a", *odd]


def test_xpk_itself_makes_the_jobset(tmp_path):
    if not shutil.which("xpk"):
        pytest.skip("pip install xpk, in an environment of its own")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([SCRIPT, *JOBSET, "--dry-run"], capture_output=True, text=True,
                          check=False, env=environment | {"HOME": str(tmp_path)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    jobset = yaml.safe_load(done.stdout[done.stdout.index("apiVersion:") :])
    assert jobset["kind"] == "JobSet" and jobset["spec"]["failurePolicy"]["maxRestarts"] == 50
    (job,) = jobset["spec"]["replicatedJobs"]
    (rule,) = job["template"]["spec"]["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["operator"]) == ("FailJob", "NotIn")
    again = set(rule["onExitCodes"]["values"])
    assert {1, 4, 6, 8, 130, 137, 143} <= again and not again & {0, 2, 3, 5, 7}
    assert job["template"]["spec"]["parallelism"] == 16  # v6e-64: 4 chips a machine


UP = ("up", *POD, "--type=v6e-64", "--spot", *TRAINING)
ONCE = ["worker", "start", "follow"]  # install, run, follow


@pytest.mark.parametrize("code", [0, 2, 3, 5, 7])
def test_up_ends_with_the_exit_code_of_the_run(cloud, code):
    (cloud / "states").write_text("NONE PROVISIONING ACTIVE")
    (cloud / "codes").write_text(str(code))
    assert pod(*UP, path=cloud).returncode == code
    assert calls(cloud) == ["describe", "create", "describe", "describe", "copy", *ONCE]


def test_after_a_preemption_up_takes_another_pod_and_the_same_command(cloud):
    (cloud / "states").write_text("NONE ACTIVE SUSPENDING SUSPENDING SUSPENDED NONE ACTIVE")
    (cloud / "codes").write_text("143 0")
    done = pod(*UP, path=cloud)
    assert done.returncode == 0 and "SUSPENDED" in done.stderr
    life = ["create", "describe", "copy", *ONCE]
    lives = [word for word in calls(cloud) if word != "describe"]
    assert lives == [w for w in [*life, "delete", *life] if w != "describe"]
    starts = [x for x in (cloud / "calls").read_text().splitlines() if "tpu_run" in x]
    assert len(starts) == 2 and starts[0] == starts[1]


def test_a_pod_that_is_there_is_used(cloud):
    (cloud / "states").write_text("ACTIVE")
    (cloud / "codes").write_text("0")
    assert pod(*UP, path=cloud).returncode == 0
    assert "create" not in calls(cloud)


def test_up_gives_up_on_a_run_that_fails_again_and_again(cloud):
    (cloud / "states").write_text("ACTIVE")
    (cloud / "codes").write_text("1")
    done = pod(*UP, path=cloud)
    assert done.returncode == 1 and "3 failures" in done.stderr
    assert calls(cloud).count("start") == 3


def test_up_does_not_ask_for_ever_for_a_pod_it_is_refused(cloud):
    (cloud / "states").write_text("NONE")
    (cloud / "refuses").write_text("")
    done = pod(*UP, path=cloud)
    assert done.returncode == 1 and "quota" in done.stderr
    assert calls(cloud) == ["describe", "create"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "create, install, run, follow, up, delete or jobset"),
        (("jobset", *POD, "--type=v9-8", *TRAINING), "--cluster is missing"),
        (("jobset", *POD, "--cluster=c", *TRAINING), "--type is missing"),
        ((*JOBSET, "--dry-run", "--", "--config.data.system_prompt=a\nb"), "line break"),
        (("destroy",), "'destroy'"),
        (("create", "--zone", "z", "--type", "v6e-8"), "--name is missing"),
        (("create", "--name", "n", "--type", "v6e-8"), "--zone is missing"),
        (("create", *POD), "--type is missing"),
        (("run", *POD, "--config", "configs/dars_b.py"), "--workdir is missing"),
        (("run", *POD, "--workdir", "w"), "--config is missing"),
        (("run", *POD, "--workdir", "w", "--config", "configs/dars_c.py"), "configs/dars_c.py"),
        (("create", *POD, "--type", "v9-8"), "--version"),
        (("create", "--name", "--zone", "z"), "--name needs a value"),
        (("create", "--name=", "--zone", "z"), "--name needs a value"),
        (("run", *POD, *TRAINING, "--config.seed=1"), "after --"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments, words):
    done = pod(*arguments, *(["--dry-run"] if arguments else []))
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and words in line


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help")])
def test_help_names_every_command_and_option(arguments):
    done = pod(*arguments)
    assert done.returncode == 0
    for word in ("create", "install", "run", "follow", "up", "delete", "jobset", "--spot",
                 "--dry-run", "--workdir", "gs://"):  # fmt: skip
        assert word in done.stdout


def test_shellcheck_finds_nothing():
    program = shutil.which("shellcheck", path=f"{os.path.dirname(sys.executable)}:{os.defpath}")
    if not program:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([program, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
