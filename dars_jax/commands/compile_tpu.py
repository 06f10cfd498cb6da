"""The command behind launch/compile_tpu.py: a step's programs on a TPU slice that is not there."""

import dataclasses
import functools
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import jax

from dars_jax.commands import cli
from dars_jax.config import ConfigDict
from dars_jax.data import hub
from dars_jax.learner import memory
from dars_jax.policy import sharding, weights
from dars_jax.policy.decoder import ARCHITECTURES, ModelConfig
from dars_jax.setup import fit, plan, remedy
from dars_jax.setup.plan import Plan
from dars_jax.tpu import aot, cost, topology
from dars_jax.tpu.cost import GIB, Analysis, Workload
from dars_jax.tpu.topology import Slice


def compile_step(
    config: ConfigDict,
    name: str,
    *,
    mean_response: float | None = None,
    rollouts_per_prompt: float | None = None,
    num_layers: int | None = None,
    programs: tuple[str, ...] = aot.NAMES,
    profile: int = 0,
    output: Path | None = None,
) -> int:
    """Compiles, prints JSON lines and a table; returns 0, or 1 if something does not fit.

    Args:
      name: the slice, like "v5e:16x16".
      mean_response: tokens; None is a third of rollout.max_tokens.
      rollouts_per_prompt: None derives it from the schedule.
      num_layers: of a shortened model, for a quick look; None is the whole model.
      profile: how many of the largest groups of instructions of each program to report.
      output: file of the JSON lines; None is standard output.
    """
    with cli.one_line_errors():
        where = topology.parse(name)
        unknown = [p for p in programs if p not in aot.NAMES]
        if unknown:
            raise ValueError(
                f"--programs: unknown {', '.join(unknown)}, expected {', '.join(aot.NAMES)}"
            )
        if profile < 0:
            raise ValueError(f"--profile must be 0 or more, got {profile}")
        for flag, value in (("mean_response", mean_response), ("num_layers", num_layers),
                            ("rollouts_per_prompt", rollouts_per_prompt)):  # fmt: skip
            if value is not None and value <= 0:
                raise ValueError(f"--{flag} must be above 0, got {value}")
        if output and not output.parent.is_dir():
            raise ValueError(f"--output {output}: no such directory as {output.parent}")
        model = _model(config)
        devices = topology.devices(where)
        shortened = dataclasses.replace(model, num_layers=num_layers or model.num_layers)
        hardware = memory.hardware(devices)
        made = plan.validate(config, len(devices), shortened, hardware)
        mesh = sharding.make_mesh(*made.mesh_shape, devices)
        longest = made.rollout.sampling.max_tokens
        if (mean_response or 1) > longest:
            raise ValueError(f"--mean_response {mean_response:g} is above rollout.max_tokens = "
                             f"{longest}")  # fmt: skip
    derived = rollouts_per_prompt is None
    notes = list(made.choices)
    rollouts = cost.expected_rollouts(made) if rollouts_per_prompt is None else rollouts_per_prompt
    work = cost.workload(made, mean_response or longest / 3, rollouts)
    if num_layers:
        notes.append(f"a model of {num_layers} instead of {model.num_layers} layers: not the real "
                     "step")  # fmt: skip
    if derived and rollouts > made.rollout.n_pre:
        notes.append(f"{rollouts:.1f} rollouts a prompt: as many as the schedule gives if right "
                     "pre-rollouts are spread evenly")  # fmt: skip
    found, groups = _compile_all(made, where, mesh, work, programs, bool(profile))
    lines = [json.dumps(_record(where, made, a, groups.get(a.program, [])[:profile]))
             for a in found]  # fmt: skip
    lines.append(json.dumps(_estimate(where, made, work, found)))
    if output:
        output.write_text("\n".join(lines) + "\n")
    else:
        print("\n".join(lines), flush=True)
    case = fit.Case(config, made.model, made.mesh_shape, hardware, made.update.attention)
    remedies = {a.program: remedy.remedy(case, a.program) for a in found if not a.fits}
    table = _table(where, made, work, found, notes, remedies)
    for program, rows in groups.items():
        table += "\n" + _profile(where, program, rows, profile)
    print(table, file=sys.stdout if output else sys.stderr)
    return 0 if all(a.fits for a in found) else 1


def _model(config: ConfigDict) -> ModelConfig:
    if config.policy.path:
        return weights.read_config(hub.model_directory(config.policy.path, hub.CONFIG_FILES))
    if config.policy.architecture not in ARCHITECTURES:
        raise ValueError(
            f"policy.architecture is {config.policy.architecture!r}: expected one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[config.policy.architecture]


def _compile_all(
    made: Plan, where: Slice, mesh: jax.sharding.Mesh, work: Workload, names: tuple[str, ...],
    profile: bool,
) -> tuple[list[Analysis], dict[str, list[dict]]]:  # fmt: skip
    """(what is said about each program, the groups of instructions of each if asked for)."""
    found, groups = [], {}
    bare = functools.cache(lambda p: aot.product_cycles(p, mesh.devices.flat[0]))
    begin = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - begin:6.0f} s] {text}", file=sys.stderr, flush=True)

    say(f"tracing for {where.num_chips} chips of {where.name}")
    for program in aot.programs(made, mesh, names):
        say(f"{program.name}: compiling, which can take minutes")
        compiled = aot.compile_program(program)
        say(f"{program.name}: {'refused' if compiled.error else 'compiled'}")
        found.append(cost.analyse(made, where, work, compiled))
        if profile and compiled.text:
            say(f"{program.name}: compiling its products alone")
            groups[program.name] = cost.groups(made, program.name, compiled.text, work, bare)
    return found, groups


def _record(where: Slice, made: Plan, analysis: Analysis, groups: list[dict]) -> dict:
    common = {"topology": where.name, "mesh": dict(zip(sharding.MESH_AXES, made.mesh_shape,
                                                       strict=True)),
              "num_layers": made.model.num_layers}  # fmt: skip
    profiled = {"groups": groups} if groups else {}
    return {**common, **analysis.to_json(), **profiled}


def _estimate(where: Slice, made: Plan, work: Workload, found: list[Analysis]) -> dict:
    """The last JSON object: a step and the run, by what was compiled."""
    step = sum(a.step_seconds for a in found)
    steps = made.config.train.num_steps
    return {
        "program": "step", "topology": where.name, "num_layers": made.model.num_layers,
        "plan": made.sizes(), "jax": version("jax"), "libtpu": version("libtpu"),
        **dataclasses.asdict(work),
        "seconds": {a.program: a.step_seconds for a in found if not a.error},
        "complete": {a.program for a in found if not a.error} == set(aot.NAMES),
        "step_seconds": step, "num_steps": steps,
        "chip_hours": step * steps * where.num_chips / 3600,
        "fits": all(a.fits for a in found), "assumptions": cost.ASSUMPTIONS,
    }  # fmt: skip


def _size(n: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= scale:
            return f"{n / scale:,.1f} {unit}"
    return f"{n:.0f} B"


def _table(
    where: Slice,
    made: Plan,
    work: Workload,
    found: list[Analysis],
    notes: list[str],
    remedies: dict[str, str],
) -> str:
    """All of it for people."""
    data, fsdp, tensor = made.mesh_shape
    lines = [
        f"{where.name}: {where.num_chips} chips, mesh data {data} x fsdp {fsdp} x tensor {tensor}, "
        f"policy of {made.model.num_params():,} parameters in {made.model.num_layers} layers",
        *(f"  {note}" for note in notes),
        "",
        f"{'program':9}{'peak of memory':>22}{'compile':>10}{'dot FLOPs':>11}{'of ideal':>10}"
        f"{'attention':>11}{'cycles':>10}{'model':>11}{'ceiling':>9}",
    ]
    for a in found:
        peak = f"{a.peak / GIB:.2f} of {a.memory / GIB:.2f} GiB"
        if a.error:
            peak = f"over {a.memory / GIB:.2f} GiB" if a.out_of_memory else "not compiled"
        ratio = f"{a.flops / a.ideal_flops:.3f}" if a.ideal_flops else "-"
        ceiling = f"{a.mfu_ceiling:.1%}" if a.mfu_ceiling and not a.error else "-"
        lines.append(
            f"{a.program:9}{peak:>22}{a.compile_seconds:>8.0f} s{a.flops:>11.2e}{ratio:>10}"
            f"{a.attention_flops:>11.2e}{a.cycles:>10.2e} {a.cycle_seconds:>8.3g} s{ceiling:>9}"
        )
    lines += [
        "  of ideal: 2 N tokens, 6 N with gradients; N leaves out a table that is only looked up",
        "  model, ceiling: the compiler's cycles, and the MFU they allow; collectives and Pallas "
        "kernels apart",
        "",
    ]
    lines += _collective_lines(found)
    for a in found:
        lines += [] if a.fits else _failure_lines(a, remedies[a.program])
    return "\n".join([*lines, *_step_lines(where, made, work, found)])


def _profile(where: Slice, program: str, rows: list[dict], most: int) -> str:
    """The largest groups of a program's instructions, and sums of them all."""
    chip = where.chip
    total = sum(row["cycles"] for row in rows)
    peak, bandwidth = chip.flops / chip.clock_hz, chip.hbm_bytes_per_s / chip.clock_hz

    def line(name: str, some: list[dict]) -> str:
        cycles, flops, bytes_, bare = (
            sum(row[key] for row in some) for key in ("cycles", "flops", "bytes", "bare_cycles")
        )
        alone = f"{bare / cycles:.2f}" if bare else "-"
        return (f"{cycles / total:>8.2%}{cycles:>10.2e}{flops / cycles / peak:>7.2f}"
                f"{bytes_ / cycles / bandwidth:>7.2f}{alone:>7}  {name}")  # fmt: skip

    sums: dict[str, list[dict]] = {}
    for row in rows:
        sums.setdefault(f"{row['kind']}, {row['level']}", []).append(row)
    lines = [f"where the cycles of {program} go (MXU, HBM: shares of the chip's peaks; alone: what "
             "its products would take compiled by themselves)",
             f"{'share':>8}{'cycles':>10}{'MXU':>7}{'HBM':>7}{'alone':>7}  what"]  # fmt: skip
    ordered = sorted(sums.items(), key=lambda item: -sum(row["cycles"] for row in item[1]))
    lines += [line(f"all {name}", some) for name, some in ordered]
    lines.append(line("everything", rows))
    lines += [line(f"{row['level']} x{row['count']:,.4g}: {row['kind']} {row['name']}", [row])
              for row in rows[:most]]  # fmt: skip
    return "\n".join([*lines, ""])


def _collective_lines(found: list[Analysis]) -> list[str]:
    lines = [f"{'collectives':9} per iteration of{'':15}count  kind{'':15}chips{'':3}bytes a chip"
             f"{'':4}largest{'':9}chip waits in a call"]  # fmt: skip
    for a in found:
        for row in sorted(a.collectives, key=lambda r: -r["bytes"] * r["iterations"]):
            if row["bytes"] * row["iterations"] < 1e-3 * max(
                r["bytes"] * r["iterations"] for r in a.collectives
            ):
                continue  # the JSON lines have them all
            how = "async" if row["asynchronous"] else "SYNC"
            level = f"{row['level']} (x{row['iterations']:,.4g})"
            lines.append(f"  {a.program:9} {level:28}{row['count']:>5}  {row['kind']:19}"
                         f"{row['group']:>5}{_size(row['bytes']):>15}{_size(row['largest']):>11}"
                         f"  {how:5}{row['seconds']:>10.3g} s")  # fmt: skip
        if not a.collectives and not a.error:
            lines.append(f"  {a.program:9} none")
    return [*lines, "  (those below 0.1 % of their program's bytes are in the JSON lines only)", ""]


def _failure_lines(a: Analysis, remedy: str) -> list[str]:
    if a.error and not a.out_of_memory:
        return [f"{a.program} did NOT COMPILE: {' '.join(a.error.split())[:600]}", ""]
    over = f"{a.peak / GIB:.2f} GiB" if a.peak else "more than the compiler can place"
    lines = [f"{a.program} does NOT FIT: {over}, for {a.memory / GIB:.2f} GiB of memory a chip"]
    if a.error:
        lines.append(f"  compiler: {' '.join(a.error.split())[:300]}")
    for part, size in sorted(a.parts.items(), key=lambda item: -item[1]):
        if size:
            lines.append(f"  {size / GIB:8.2f} GiB  {part}")
    for size, origin in a.largest:
        lines.append(f"  {size / GIB:8.2f} GiB  {_middle_out(origin)}")
    return [*lines, f"  {remedy}", ""]


def _middle_out(text: str) -> str:
    return text if len(text) < 110 else f"{text[:60]} … {text[-47:]}"


def _step_lines(where: Slice, made: Plan, work: Workload, found: list[Analysis]) -> list[str]:
    lines = [
        f"a step (estimate): {work.rollouts:,.0f} rollouts of {work.mean_response:,.0f} tokens, "
        f"{work.micro_batches:,.0f} micro-batches of {made.batch.rows} rows in each of "
        f"{made.update.num_epochs} epochs",
        f"  {'phase':9}{'calls':>8}{'cycles':>12}{'collectives':>13}{'kernels':>10}{'seconds':>11}",
    ]
    for a in found:
        lines.append(
            f"  {a.program:9}{a.calls:>8,.1f}{a.calls * a.cycle_seconds:>10,.3g} s"
            f"{a.calls * a.collective_seconds:>11,.3g} s{a.calls * a.kernel_seconds:>8,.3g} s"
            f"{a.step_seconds:>9,.3g} s"
        )
    step = sum(a.step_seconds for a in found)
    steps = made.config.train.num_steps
    if any(a.error for a in found):
        return [*lines, "  no total: a program was not compiled"]
    if {a.program for a in found} != set(aot.NAMES):
        lines.append("  of the programs that were asked for only:")
    hours = step * steps * where.num_chips / 3600
    return [*lines,
            f"  step {step:,.4g} s; {steps} steps: {step * steps / 3600:,.3g} h, {hours:,.4g} "
            "chip-hours",
            f"  assumed: {cost.ASSUMPTIONS}"]  # fmt: skip
