"""The loop.  One step, in one row:

    prompts → rollouts (grade, allocate, more rollouts) → assemble → update → publish → record

A step is a function of (configuration, step number, state), so stopping anywhere and starting
again from the last checkpoint gives the same bits as never stopping.
"""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dars_jax import config as config_lib
from dars_jax import distributed
from dars_jax.data.prompts import batch_indices
from dars_jax.evaluation import answering, scores
from dars_jax.policy import lora, sharding
from dars_jax.records import checkpoint, metrics, storage
from dars_jax.records.checkpoint import Checkpoints
from dars_jax.records.journal import Journals
from dars_jax.records.tracker import Tracker
from dars_jax.rewards import Grader, GradingError
from dars_jax.rollout import exchange, stages
from dars_jax.setup import base_policy, build
from dars_jax.setup.plan import GAP_LIMIT_EXACT
from dars_jax.training.assemble import assemble, probe
from dars_jax.training.stop import StopFlag, Stopped, StrangeWeightsError, UsualGap
from dars_jax.training.watchdog import Watchdog, nobody
from dars_jax.types import TrainState, UpdateBatch

# what reading a damaged file of figures or answers may raise
_DAMAGED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, OSError)
NON_FINITE_LIMIT = 3  # updates in a row that were not applied


class Trainer:
    """A run in a working directory.  `run` is the whole of it."""

    def __init__(
        self,
        parts: build.Parts,
        grader: Grader,
        workdir: Path,
        console: metrics.Console,
        tracker: Tracker | None = None,
        watchdog: Watchdog | None = None,
    ):
        """Loads the initial policy, or the newest checkpoint of the working directory.

        Raises:
          ValueError: the policy, the checkpoint or the metrics cannot be used; see
            Checkpoints.restore, checkpoint.recover and MetricsLog.
          StorageError: files cannot be written.
        """
        self._parts, self._plan, self._workdir = parts, parts.plan, workdir
        self._grader, self._console = grader, console
        self._watchdog = watchdog or nobody()
        c = parts.plan.config
        directory = workdir / "checkpoints"
        checkpoint.recover(directory, workdir / "damaged", console.log)
        self._checkpoints = Checkpoints(
            directory, config_lib.flatten(c) | parts.contents, c.checkpoint.keep
        )
        frozen = c.learner.kl_coef or parts.plan.update.lora
        self._initial = build.initial_params(parts) if frozen else None
        self._journals = Journals(workdir / "journal", config_lib.flatten(c), console.log)
        self._state, self._start = self._restore()
        self._log = metrics.MetricsLog(workdir, self._start, tracker, console.log)
        self._non_finite = 0
        self._usual_gap = UsualGap(GAP_LIMIT_EXACT)
        self._seconds_saving = 0.0  # that the loop waited, after the step before

    def run(self) -> tuple[answering.Report, answering.Report]:
        """Trains to the last step; returns the evaluations before the first and after the last.

        Raises:
          Stopped: on SIGINT or SIGTERM, after writing a checkpoint.
          GradingError: the reward failed, after writing a checkpoint.
          SaveError: a checkpoint could not be written.
          StorageError: another file could not be written.
          StrangeWeightsError: a step's log-probs were not those of its weights; the state before
            that step is saved, or an earlier one if the step was applied.
          NonFiniteError: the policy gave log-probs that are not finite.
          FloatingPointError: NON_FINITE_LIMIT steps in a row had a gradient that was not finite.
        """
        c, start, checkpoints = self._plan.config, self._start, self._checkpoints
        state = self._state
        del self._state  # the update donates it
        log = self._log
        with (
            StopFlag().installed() as stop,
            jax.transfer_guard("disallow"),  # every crossing is explicit
            contextlib.closing(self._journals),
        ):
            params = self._publish(state)
            saved = done = start
            try:
                before = self._first_evaluation(params, log, stop)
                while done < c.train.num_steps:
                    if c.eval.every and done and done % c.eval.every == 0:
                        self._evaluate_once(done, params, log, stop)
                    state, params = self._step(done, state, params, log, stop)
                    done += 1
                    begin = time.perf_counter()
                    if done % c.checkpoint.every == 0 or done == c.train.num_steps:
                        self._watchdog.at("checkpoint", done)
                        checkpoints.save(done, state)
                        saved = done
                    else:
                        checkpoints.check()
                    self._seconds_saving = time.perf_counter() - begin
                after = self._evaluate(done, params, log, stop)
                self._watchdog.at("checkpoint", done, "last")
                checkpoints.wait()
            except (Stopped, GradingError, StrangeWeightsError) as error:
                self._watchdog.at("checkpoint", done, "last")
                last = getattr(error, "state", state)
                if saved < done and last is not None:
                    checkpoints.save(done, last)
                checkpoints.wait()
                raise
            except Exception as error:
                # A save in flight comes to its end, unless other processes know nothing of this.
                if isinstance(error, FloatingPointError) or jax.process_count() == 1:
                    checkpoints.wait()
                raise
        log.close()
        checkpoints.close()
        self._drop_journals()
        self._journals.close()
        return before, after

    def _restore(self) -> tuple[TrainState, int]:
        state = build.initial_state(self._parts)
        start = self._checkpoints.latest()
        if start is None:
            return state, 0
        state = self._checkpoints.restore(start, state, self._parts.shardings)
        self._console.log(f"continuing after step {start} from {self._workdir}/checkpoints")
        return state, start

    def _publish(self, state: TrainState) -> Any:
        params = lora.whole(self._plan.update.lora, self._initial, state.params)
        return self._parts.engine.load_params(params)

    def _drop_journals(self) -> None:
        """Removes those of the steps that the newest whole checkpoint includes."""
        self._journals.drop(max(checkpoint.finished(self._workdir / "checkpoints"), default=0))

    def _step(
        self,
        step: int,
        state: TrainState,
        params: Any,
        log: metrics.MetricsLog,
        stop: StopFlag,
    ) -> tuple[TrainState, Any]:
        c, parts, console = self._plan.config, self._parts, self._console
        begin = time.perf_counter()

        def progress(done: int, planned: int, tokens: int, stage: int, work: int) -> None:
            self._watchdog.at("rollouts", step + 1, work)
            stop.check(step)
            rate = tokens / (time.perf_counter() - begin)
            console.phase(step, f"stage {stage + 1}  rollouts {done:,}/{planned:,}  "
                                f"{rate:,.0f} tokens/s")  # fmt: skip

        self._watchdog.at("rollouts", step + 1)
        epoch, indices = batch_indices(len(parts.train.rows), c.rollout.num_prompts, c.seed, step)
        prompts = build.take(parts.train, indices)
        journal = self._journals.open(step, params, prompts)
        self._drop_journals()
        opened = time.perf_counter()
        session = parts.engine.open_session(params, c.rollout.prefill_batch)
        rollouts, stats = stages.collect(
            prompts, session, self._grader, parts.tokenizer.decode, parts.tokenizer.eos_ids,
            self._plan.rollout, seed=c.seed, step=step, progress=progress,
            journal=journal,
        )  # fmt: skip
        sampled = time.perf_counter()
        self._watchdog.at("update", step + 1)
        verdicts = rollouts.verdict
        rollouts = stages.judged(rollouts)
        packed, advantage, kept = assemble(parts, prompts, rollouts)
        assembled = time.perf_counter()
        console.phase(step, "update")
        values = {"epoch": epoch, **metrics.rollout_metrics(
            rollouts, kept, advantage, verdicts, self._grader.parts)}  # fmt: skip
        # of a vocabulary that is padded; decoding leaves them out
        values["tokens_without_text"] = exchange.count_tokens(rollouts, parts.tokenizer.vocab_size)
        learns = packed.token_count.any()  # nothing to learn from is a normal step
        if not learns:
            packed = probe(parts, prompts, rollouts)
        del session, params  # their memory is the update's now
        state, outcome = parts.update(state, sharding.put_batch(packed, parts.mesh), self._initial)
        outcome = jax.device_get(outcome)
        values |= {k: float(v[0]) for k, v in outcome.items() if k.startswith("logprob_gap")}
        values |= self._update_metrics(outcome, packed) if learns else {"update_skipped": 1}
        if outcome["strange"].any():
            self._journals.forget(step)  # nothing of it is to be used again
            log.write(step + 1, values)
            limit = self._plan.update.gap_limit
            raise StrangeWeightsError(step + 1, values["logprob_gap"], limit, state)
        if not c.learner.gap_limit:
            self._check_gap(step, values, log)
        updated = time.perf_counter()
        self._watchdog.at("publish", step + 1)
        params = self._publish(state)
        jax.block_until_ready(params)
        end = time.perf_counter()
        values |= metrics.cost_metrics(stats)
        values |= {
            "seconds_journal": values["seconds_journal"] + opened - begin,
            "seconds_rollout": sampled - begin,
            "seconds_assemble": assembled - sampled,
            "seconds_update": updated - assembled,
            "seconds_publish": end - updated,
            "seconds_checkpoint": self._seconds_saving,
            "seconds_step": end - begin,
            "tokens_per_s": values["tokens"] / (sampled - begin),
        }
        self._watchdog.at("records", step + 1)
        log.write(step + 1, values)
        console.step_done(step, _step_line(values))
        return state, params

    def _check_gap(self, step: int, values: dict[str, Any], log: metrics.MetricsLog) -> None:
        try:
            self._usual_gap.check(step + 1, values["logprob_gap"])
        except StrangeWeightsError:
            self._journals.forget(step)
            log.write(step + 1, values)
            raise

    def _update_metrics(self, outcome: dict[str, np.ndarray], packed: UpdateBatch) -> dict:
        """One value per step, over tokens: entropy of the first epoch, the rest of all."""
        applied = outcome["applied"] > 0
        self._non_finite = 0 if (outcome["finite"] > 0).all() else self._non_finite + 1
        if self._non_finite >= NON_FINITE_LIMIT:
            raise FloatingPointError(
                f"{self._non_finite} steps in a row had a gradient, or moments of the optimizer, "
                "that are not finite; the weights are those before them. A lower "
                "optimizer.learning_rate may help"
            )
        shape = self._plan.batch
        slots = shape.rows * int(packed.bounds[-1]) * shape.row_tokens
        count = packed.token_count  # float32[J]; outcome has E * J entries
        mean = lambda v: float(np.average(v, weights=np.resize(count, len(v))))  # noqa: E731
        flags = {"applied", "finite", "strange"}
        names = {n for n in outcome if not n.startswith("logprob_gap")} - flags
        values = {name: mean(outcome[name]) for name in sorted(names)}
        return values | {
            "entropy": mean(outcome["entropy"][: len(count)]),
            "updates_applied": int(applied.sum()),
            "updates_skipped": int((~applied).sum()),
            "micro_batches": int(packed.bounds[-1]),
            "packing": float(packed.token_count.sum() / max(slots, 1)),
        }

    def _first_evaluation(
        self, params: Any, log: metrics.MetricsLog, stop: StopFlag
    ) -> answering.Report:
        """That of the initial policy, which an earlier run of this directory may have left."""
        summary = self._workdir / "eval" / "step_000000.json"
        if self._start == 0:
            return self._evaluate(0, params, log, stop)
        if distributed.of_first(summary.exists() and summary.with_suffix(".jsonl").exists()):
            seed, first = self._plan.config.seed, distributed.is_first()
            problem = stored_problem(summary, seed) if first else ""
            if not distributed.of_first(bool(problem)):
                return read_report(summary)
            self._console.log(f"WARNING: {problem}: the initial policy is evaluated again")
        initial = self._initial
        if initial is None:
            with jax.transfer_guard("allow"):  # they are read from the policy's files
                initial = build.initial_params(self._parts)
        return self._evaluate(0, self._parts.engine.load_params(initial), log, stop)

    def _evaluate_once(
        self, step: int, params: Any, log: metrics.MetricsLog, stop: StopFlag
    ) -> None:
        """Evaluates unless this step has been, before the run was stopped."""
        summary = self._workdir / "eval" / f"step_{step:06d}.json"
        if not distributed.of_first(summary.exists()):
            self._evaluate(step, params, log, stop)

    def _evaluate(
        self, step: int, params: Any, log: metrics.MetricsLog, stop: StopFlag
    ) -> answering.Report:
        """Evaluates published parameters on the held-out prompts and records the outcome."""
        output = self._workdir / "eval" / f"step_{step:06d}.jsonl"
        summary = output.with_suffix(".json")
        console, last = self._console, self._plan.config.train.num_steps - 1

        def progress(done: int, total: int, work: int) -> None:
            self._watchdog.at("evaluation", step, (done, work))
            stop.check(step)
            console.phase(min(step, last), f"evaluation  answers {done:,}/{total:,}")

        self._watchdog.at("evaluation", step)
        report = answering.evaluate(
            self._parts, params, self._grader, output=output, progress=progress
        )
        if distributed.is_first():
            storage.replace(summary, json.dumps(report.to_json(), indent=2) + "\n")
        log.scalars(step, {f"eval/pass_at_{k}": v for k, v in report.pass_at.items()})
        console.log(f"after step {step}, {report.num_problems} held-out prompts: "
                    f"{report.summary()}")  # fmt: skip
        if step == 0:
            self._warn_of_another_base(report.pass_at[1])
        return report

    def _warn_of_another_base(self, pass_at_1: float) -> None:
        """Says so if the embedded policy is not what its figures were measured with."""
        c = self._plan.config
        band = base_policy.PASS_AT_1_BANDS.get((c.policy.architecture, c.policy.warmup_steps))
        if c.policy.path or c.data.test != "tfds:countdown:test" or band is None:
            return
        low, high = band
        if not low <= pass_at_1 <= high:
            self._console.log(f"WARNING: the base policy's Pass@1 {pass_at_1:.3f} lies outside "
                              f"{low}–{high}; the README's figures cannot be expected")  # fmt: skip


def stored_problem(summary: Path, seed: int) -> str:
    """What is wrong with an evaluation's figures, or the answers beside them; "" if nothing."""
    answers = summary.with_suffix(".jsonl")
    try:
        stored = read_report(summary)
    except _DAMAGED:
        return f"{summary} is damaged"
    try:
        found = scores.report(answering.read(answers, stored.num_problems), seed)
    except (*_DAMAGED, GradingError):
        return f"{answers} is damaged"
    return "" if found == stored else f"{summary} has other figures than {answers}"


def read_report(path: Path) -> answering.Report:
    """Stored figures of an evaluation."""
    raw = json.loads(path.read_bytes())
    raw["pass_at"] = {int(k): v for k, v in raw["pass_at"].items()}
    raw["pass_interval"] = {int(k): tuple(v) for k, v in raw["pass_interval"].items()}
    return answering.Report(**raw)


def _step_line(values: dict[str, Any]) -> str:
    entropy = f"  entropy {values['entropy']:.3f}" if "entropy" in values else "  no signal"
    return (
        f"reward {values['reward_mean']:.3f}  Pass@1 {values['pass_at_1']:.3f}  "
        f"rollouts/prompt {values['rollouts_per_prompt']:.1f}  "
        f"kept {values['groups_kept']}/{values['num_prompts']}{entropy}  "
        f"{values['tokens_per_s']:,.0f} tokens/s  {values['seconds_step']:.1f} s"
    )
