#!/usr/bin/env bash
# Trains on a TPU pod.  `launch/pod.sh --help` says how.
set -euo pipefail

usage() {
  cat <<'EOF'
Trains on a TPU pod: a queued resource of Google Cloud with one node.

    launch/pod.sh up --name NAME --zone ZONE --type v5litepod-256 --spot \
      --config configs/dars_b.py:qwen2.5-math-7b --workdir gs://BUCKET/DIR -- \
      --config.policy.path=DIR --config.data.train=FILE --config.data.test=FILE

does all of it: creates the pod, installs the last commit of this checkout on all workers, runs
launch/tpu_run.py on all of them and follows worker 0.  After a preemption it creates the pod again
and goes on from the last checkpoint.  It ends with the exit code of the run; the pod stays.

Commands:
  create   ask for the pod and wait until it is there
  install  copy the last commit to all workers and install it
  run      start the training on all workers; returns at once
  follow   show the log of worker 0 until the run ends; ends with its exit code
  up       all of these, what is there already left alone; again after a preemption
  delete   give the pod back
  jobset   train on a GKE cluster instead, as a JobSet that xpk makes of the last commit; returns at
           once.  Kubernetes starts it again after a preemption or a failure that may pass

Options:
  --name NAME        of the pod
  --zone ZONE        for example us-west4-a
  --project PROJECT  default: that of gcloud's configuration
  --type TYPE        accelerator type, for example v5litepod-256, v5p-128, v6e-64 (create, up,
                     jobset)
  --version VERSION  software of the machines; known for v4, v5litepod, v5p and v6e (create, up)
  --spot             cheaper, may be preempted (create, up, jobset)
  --cluster CLUSTER  of GKE, made by `xpk cluster create` (jobset)
  --config FILE      configuration, relative to the checkout (run, up, jobset)
  --workdir DIR      on a disk that all workers share, or gs://BUCKET/DIR, which every worker mounts
                     with gcsfuse (run, up, jobset)
  -- FLAGS           more flags of launch/tpu_run.py (run, up, jobset)
  --dry-run          print the commands, one a line, and run none; for jobset the JobSet after them
  --help             this text

Paths are those of the workers.  Exit code 2: a mistake in the command.
EOF
}

fail() {
  echo "error: $1" >&2
  exit 2
}

readonly POLL=30 # seconds between two looks at the pod
readonly RESTARTS=50 # of a JobSet: it counts preemptions, too
readonly IMAGE=python:3.12 # a JobSet's; the checkout is added to it
readonly TRIES=3 # failures on a pod that is there before `up` gives up

name='' zone='' project='' type='' version='' cluster='' config='' workdir=''
spot=false dry_run=false
flags=()

parse() {
  command=${1:-}
  case $command in
    create | install | run | follow | up | delete | jobset) shift ;;
    -h | --help | help) usage && exit 0 ;;
    '') fail 'no command: create, install, run, follow, up, delete or jobset; --help explains them' ;;
    *) fail "unknown command '$command': create, install, run, follow, up, delete or jobset" ;;
  esac
  while (($#)); do
    case $1 in
      --help | -h) usage && exit 0 ;;
      --spot) spot=true ;;
      --dry-run) dry_run=true ;;
      --name | --zone | --project | --type | --version | --cluster | --config | --workdir)
        [[ -n ${2:-} && $2 != --* ]] || fail "$1 needs a value"
        printf -v "${1#--}" '%s' "$2"
        shift
        ;;
      --name=* | --zone=* | --project=* | --type=* | --version=* | --cluster=* | --config=* | \
        --workdir=*)
        [[ -n ${1#*=} ]] || fail "${1%%=*} needs a value"
        set -- "${1%%=*}" "${1#*=}" "${@:2}"
        continue
        ;;
      --)
        shift
        flags=("$@")
        break
        ;;
      *) fail "unknown option '$1': flags of launch/tpu_run.py come after --" ;;
    esac
    shift
  done
}

need() {
  local option
  for option in "$@"; do
    [[ -n ${!option} ]] || fail "--$option is missing: '$command' needs it (see --help)"
  done
}

check() {
  need name zone
  case $command in create | up | jobset) need type ;; esac
  case $command in run | up | jobset) need config workdir ;; esac
  if [[ $command == jobset ]]; then
    need cluster
    [[ "${flags[*]-}" != *$'\n'* ]] || fail 'a flag has a line break, which a JobSet cannot carry'
    $dry_run || type -P xpk >/dev/null || fail 'xpk is not installed: pip install xpk'
    return
  fi
  if [[ -n $config && ! -f ${config%%:*} ]]; then
    fail "--config $config: no such file in $PWD"
  fi
  if [[ -n $type && -z $version ]]; then
    case $type in
      v4-*) version=tpu-ubuntu2204-base ;;
      v5litepod-*) version=v2-alpha-tpuv5-lite ;;
      v5p-*) version=v2-alpha-tpuv5 ;;
      v6e-*) version=v2-alpha-tpuv6e ;;
      *) fail "--type $type is not known here: give its --version" ;;
    esac
  fi
  $dry_run || type -P gcloud >/dev/null || fail 'gcloud is not installed'
}

# Prints words so that a shell would read them the same.
quote() {
  local word line='' escaped="'\\''"
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word="'${word//\'/$escaped}'"
    line+=" $word"
  done
  echo "${line# }"
}

# Runs a command, or prints it.
act() {
  if $dry_run; then quote "$@"; else "$@"; fi
}

place() {
  where=("--zone=$zone")
  [[ -z $project ]] || where+=("--project=$project")
}

on_workers() { # WORKER COMMAND
  act gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" "--worker=$1" "--command=$2"
}

state() {
  gcloud compute tpus queued-resources describe "$name" "${where[@]}" \
    '--format=value(state.state)' 2>/dev/null || echo NONE
}

create() {
  local kind=()
  if $spot; then kind=(--spot); fi
  act gcloud compute tpus queued-resources create "$name" "${where[@]}" "--node-id=$name" \
    "--accelerator-type=$type" "--runtime-version=$version" ${kind[@]+"${kind[@]}"} &&
    await
}

await() {
  if $dry_run; then
    act gcloud compute tpus queued-resources describe "$name" "${where[@]}" \
      '--format=value(state.state)'
    return
  fi
  local now before=''
  while now=$(state) && [[ $now != ACTIVE ]]; do
    case $now in
      FAILED | SUSPENDED | NONE)
        echo "error: the pod is $now" >&2
        return 1
        ;;
    esac
    [[ $now == "$before" ]] || echo "the pod is $now" >&2
    before=$now
    sleep "$POLL"
  done
}

delete() {
  act gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
}

install() {
  local archive=/tmp/dars_jax.tar.gz steps
  # The machines bring Python 3.10; uv fetches a newer one.
  steps='mkdir -p dars_jax && tar -xzf dars_jax.tar.gz -C dars_jax && cd dars_jax'
  steps+=' && python3 -m pip install -q --user uv'
  steps+=' && { [ -x .venv/bin/python ] || python3 -m uv venv -q --python 3.11 .venv; }'
  steps+=" && python3 -m uv pip install -q --python .venv/bin/python -e '.[train,tpu]'"
  act git archive --format=tar.gz -o "$archive" HEAD &&
    act gcloud compute tpus tpu-vm scp "$archive" "$name:dars_jax.tar.gz" "${where[@]}" \
      --worker=all &&
    on_workers all "$steps"
}

# Prints the steps that bring a bucket under ~/buckets on a worker.  Nothing is cached, since the
# workers must see each other's files; orbax renames directories of many files.
mount_steps() { # BUCKET
  local list=/etc/apt/sources.list.d/gcsfuse.list key=/usr/share/keyrings/cloud.google.asc
  local apt=https://packages.cloud.google.com/apt
  echo "{ type gcsfuse >/dev/null 2>&1 || {" \
    "curl -fsSL $apt/doc/apt-key.gpg | sudo tee $key >/dev/null" \
    "&& echo \"deb [signed-by=$key] $apt gcsfuse-\$(lsb_release -cs) main\"" \
    "| sudo tee $list >/dev/null" \
    "&& sudo apt-get update -qq && sudo apt-get install -qq -y gcsfuse; }; }" \
    "&& mkdir -p ~/buckets/$1 && { mountpoint -q ~/buckets/$1" \
    "|| gcsfuse --implicit-dirs --rename-dir-limit=1000000 --metadata-cache-ttl-secs=0" \
    "$1 ~/buckets/$1; } && "
}

run() {
  local steps='' directory=$workdir training rest
  if [[ $workdir == gs://* ]]; then
    rest=${workdir#gs://}
    steps=$(mount_steps "${rest%%/*}")
    directory="../buckets/$rest" # seen from ~/dars_jax
  fi
  training=$(quote .venv/bin/python -u launch/tpu_run.py --config "$config" \
    --workdir "$directory" ${flags[@]+"${flags[@]}"})
  # The lock makes a second start harmless: the first run goes on.
  steps+='cd dars_jax && { flock -n run.lock true || { echo already running; exit 0; }; }'
  steps+=' && rm -f run.pid run.exit && { setsid nohup flock -n run.lock sh -c '
  steps+=$(quote "echo \$\$ > run.pid; $training; echo \$? > run.exit")
  steps+=' > run.log 2>&1 < /dev/null & }'
  on_workers all "$steps"
}

follow() {
  local steps='cd dars_jax && for i in 1 2 3 4 5; do [ -e run.pid ] && break; sleep 1; done'
  # shellcheck disable=SC2016 # expanded on the worker
  steps+='; tail -n 100 -F run.log --pid="$(cat run.pid)"; exit "$(cat run.exit || echo 1)"'
  on_workers 0 "$steps"
}

# Ends what a failed run has left on other workers.
sweep() {
  # shellcheck disable=SC2016 # expanded on the worker
  on_workers all 'cd dars_jax && { flock -n run.lock true ||
    kill -KILL -- "-$(ps -o pgid= -p "$(cat run.pid)" | tr -d " ")"; }'
}

# xpk makes a JobSet of the checkout and hands it to the cluster.  Exit codes 1, 4, 6 and 8 and what xpk
# adds by itself, 127 to 255 (130, 137, 143: signals), start it again; the others end it, since a
# run that goes on from the same state would end so again.
jobset() {
  local archive=/tmp/dars_jax.tar.gz source=/tmp/dars_jax_image directory=$workdir bucket
  local storage=() capacity=() training manifest
  if [[ $workdir == gs://* ]]; then
    bucket=${workdir#gs://}
    directory="/buckets/$bucket"
    bucket=${bucket%%/*}
    storage=("--storage=$bucket")
  fi
  if $spot; then capacity=(--spot); fi
  training=$(quote python -u launch/tpu_run.py --config "$config" --workdir "$directory" \
    ${flags[@]+"${flags[@]}"})
  # `exec`: xpk's script passes SIGTERM on to this process only.
  local create=(xpk workload create "--workload=$name" "--cluster=$cluster" "${where[@]}"
    "--tpu-type=$type" ${capacity[@]+"${capacity[@]}"} ${storage[@]+"${storage[@]}"}
    "--base-docker-image=$IMAGE" "--script-dir=$source" "--max-restarts=$RESTARTS"
    "--restart-on-exit-codes=1,4,6,8" --termination-grace-period-seconds=300
    "--command=pip install -q -e '.[train,tpu]' && exec $training")
  act git archive --format=tar.gz -o "$archive" HEAD &&
    act rm -rf "$source" && act mkdir "$source" && act tar -xzf "$archive" -C "$source" ||
    return
  if [[ -n ${bucket:-} ]]; then
    # What is attached already stays as it is.  Options as on a pod, see mount_steps.
    act xpk storage attach "$bucket" "--cluster=$cluster" "${where[@]}" --type=gcsfuse \
      "--bucket=$bucket" "--mount-point=/buckets/$bucket" --readonly=false --auto-mount=false \
      --size=1 --mount-options=implicit-dirs,rename-dir-limit=1000000,metadata-cache:ttl-secs:0 ||
      return
  fi
  act "${create[@]}" || return
  if $dry_run && type -P xpk >/dev/null; then
    manifest=$(mktemp)
    # The archive was not unpacked: the checkout takes its place.
    "${create[@]/#--script-dir=*/--script-dir=$PWD}" "--project=${project:-PROJECT}" --dry-run \
      --skip-validation "--output-manifest-file=$manifest" >&2 || return
    cat "$manifest" && rm "$manifest"
  elif $dry_run; then
    echo 'xpk is not installed: the JobSet that it makes is not shown' >&2
  fi
}

up() {
  if $dry_run; then
    create && install && run && follow
    return
  fi
  local failures=0 code now
  while true; do
    now=$(state)
    case $now in
      NONE) create || return 1 ;;
      SUSPENDED | FAILED)
        echo "the pod is $now: giving it back to ask for another" >&2
        delete || sleep "$POLL"
        continue
        ;;
      SUSPENDING | DELETING)
        sleep "$POLL"
        continue
        ;;
      *) await || continue ;;
    esac
    # A pod that goes away meanwhile shows as a failure here, and as its state above.
    code=0
    { install && run && follow; } || code=$?
    case $code in 0 | 2 | 3 | 5 | 7) return "$code" ;; esac # these would come again
    now=$(state)
    echo "the run ended with exit code $code, the pod is $now" >&2
    if [[ $now == ACTIVE && $code != 255 ]]; then # 255: the connection broke, not the run
      if ((++failures >= TRIES)); then
        echo "error: $failures failures on a pod that is there" >&2
        return "$code"
      fi
      sweep || true
    fi
    sleep "$POLL"
  done
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
parse "$@"
check
place
"$command"
