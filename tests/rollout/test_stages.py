"""The stage loop over a real policy: nothing but the prompt decides the rollouts."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jetstream.engine import engine_api
from rollouts import CONFIG, COUNT, EOS, expected_counts, make_prompts

from dars_jax.engine.jetstream_engine import PolicyEngine
from dars_jax.engine.programs import Programs
from dars_jax.engine.session import NonFiniteError, Request, SamplingConfig, Session
from dars_jax.engine.state import DecodeConfig
from dars_jax.policy import sharding
from dars_jax.rewards import FunctionGrader, Grade
from dars_jax.rollout import stages
from dars_jax.types import Prompts


@pytest.fixture(scope="module")
def engines(tiny):
    """(programs, published params) of two engines: roomy, and cramped in every respect."""
    mesh = sharding.make_mesh(1, 1, 1)
    roomy = DecodeConfig(slots=32, prefixes=16, requests=COUNT * 12, prompt_tokens=10,
                         response_tokens=12, eos_ids=EOS, filters=False,
                         dtype=jnp.dtype("float32"))  # fmt: skip
    cramped = dataclasses.replace(roomy, slots=3, prefixes=2, requests=COUNT * 12 + 5)
    made = [Programs(config, tiny.config, mesh) for config in (roomy, cramped)]
    params = made[0].publish(tiny.params)
    return types.SimpleNamespace(roomy=made[0], cramped=made[1], params=params)


def is_right(response, gold):
    return sum(map(int, response.split())) % int(gold) == 0


def text_of(ids):
    return " ".join(map(str, ids)) or "1"


def collect(engines, prompts, config=CONFIG, programs=None, seed=0, step=3, prefill_batch=4,
            grader=None, journal=None):  # fmt: skip
    """{(uid, sample): (stage, ids, truncated, reward, log-probs)}, statistics."""
    session = Session(programs or engines.roomy, engines.params, prefill_batch)
    got, stats = stages.collect(
        prompts, session, grader or FunctionGrader(is_right), text_of, EOS, config,
        seed=seed, step=step, journal=journal,
    )  # fmt: skip
    answers = {}
    for i in range(len(got)):
        key = int(prompts.uid[got.prompt[i]]), int(got.sample[i])
        ids = tuple(got.tokens[i].tolist())
        about = int(got.stage[i]), ids, bool(got.truncated[i]), float(got.reward[i])
        answers[key] = (*about, got.logprob[i])
    assert len(answers) == len(got)
    return answers, stats


@pytest.fixture(scope="module")
def baseline(engines):
    return collect(engines, make_prompts())[0]


def assert_same_answers(got, want):
    """The same tokens and rewards to the bit, the same log-probs but for rounding."""
    assert got.keys() == want.keys()
    for key in want:
        assert got[key][:4] == want[key][:4], key
        np.testing.assert_allclose(got[key][4], want[key][4], atol=2e-5)


def test_the_baseline_is_worth_comparing_with(baseline):
    lengths = [len(x[1]) for x in baseline.values()]
    assert {1, 12} <= set(lengths)  # an EOS as first token, and the length limit
    assert {x[0] for x in baseline.values()} == {0, 1} and {x[3] for x in baseline.values()} == {
        0,
        1,
    }
    assert len({x[1] for x in baseline.values()}) > 0.8 * len(baseline)
    for _, ids, truncated, *_ in baseline.values():
        assert all(i not in EOS for i in ids[:-1])
        assert truncated == (ids[-1] not in EOS)
        assert not truncated or len(ids) == 12


def test_counts_and_rewards_follow_from_the_answers(baseline):
    prompts = make_prompts()
    for p, uid in enumerate(prompts.uid):
        mine = [baseline[key] for key in sorted(baseline) if key[0] == uid]
        gold = prompts.answer[p][0]
        right = [is_right(text_of(x[1]), gold) for x in mine]
        assert [x[3] for x in mine] == [float(r) for r in right]
        stages = expected_counts(4, 12, "hw", 2, lambda i, right=right: right[i])
        want = [s for s, n in enumerate(stages) for _ in range(n)]
        assert [x[0] for x in mine] == want


def test_sampled_logprobs_are_the_trainers(baseline, tiny, reference_logits):
    prompts = make_prompts()
    of = dict(zip(prompts.uid.tolist(), prompts.tokens, strict=True))
    rows = np.zeros((len(baseline), 22), np.int32)
    for row, ((uid, _), x) in zip(rows, baseline.items(), strict=True):
        whole = [*of[uid], *x[1]]
        row[: len(whole)] = whole
    forward = jax.jit(jax.vmap(lambda t: jax.nn.log_softmax(
        reference_logits(tiny.params, tiny.config, t))))  # fmt: skip
    logp = np.asarray(forward(jnp.asarray(rows)))
    for i, ((uid, _), x) in enumerate(baseline.items()):
        at = len(of[uid]) - 1 + np.arange(len(x[1]))
        np.testing.assert_allclose(x[4], logp[i, at, x[1]], atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [{"steps_per_dispatch": 1}, {"steps_per_dispatch": 1000}, {"barrier": True}],
    ids=str,
)
def test_the_pace_of_the_host_does_not_change_the_answers(engines, baseline, changes):
    got, _ = collect(engines, make_prompts(), dataclasses.replace(CONFIG, **changes))
    assert_same_answers(got, baseline)


@pytest.mark.parametrize("barrier", [False, True])
def test_three_slots_and_two_prefixes_give_the_same_answers(engines, baseline, barrier):
    config = dataclasses.replace(CONFIG, barrier=barrier, steps_per_dispatch=5)
    got, stats = collect(engines, make_prompts(), config, engines.cramped)
    assert_same_answers(got, baseline)
    assert stats.busy_slots <= stats.slot_steps == 3 * stats.decode_steps
    assert barrier or stats.busy_slots > 0.8 * stats.slot_steps


def test_neither_order_nor_company_changes_an_answer(engines, baseline):
    prompts = make_prompts()
    some = [9, 2, 5, 0]
    alone = Prompts(
        tokens=tuple(prompts.tokens[i] for i in some), uid=prompts.uid[some],
        answer=tuple(prompts.answer[i] for i in some),
    )  # fmt: skip
    got, _ = collect(engines, alone, prefill_batch=4)
    want = {k: v for k, v in baseline.items() if k[0] in alone.uid}
    assert_same_answers(got, want)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"step": 4}])
def test_another_seed_or_step_gives_other_answers(engines, baseline, changes):
    got, _ = collect(engines, make_prompts(), **changes)
    common = got.keys() & baseline.keys()
    assert np.mean([got[k][1] == baseline[k][1] for k in common]) < 0.2


def test_top_ups_do_not_repeat_the_first_samples(engines, baseline):
    for uid in make_prompts().uid:
        first = [x[1] for (u, _), x in baseline.items() if u == uid and x[0] == 0]
        later = [x[1] for (u, _), x in baseline.items() if u == uid and x[0] == 1]
        long = [x for x in later if len(x) > 4]
        assert not set(long) & set(first)


def test_a_limit_of_one_token(engines, baseline):
    sampling = SamplingConfig(temperature=1.0, max_tokens=1)
    config = dataclasses.replace(CONFIG, sampling=sampling, schedule="none", n_max=4)
    got, stats = collect(engines, make_prompts(), config)
    assert stats.decode_steps == 0  # the prefill has the logits
    for key, x in got.items():
        assert x[1] == baseline[key][1][:1]


def test_one_rollout_of_one_prompt(engines, baseline):
    config = dataclasses.replace(CONFIG, n_pre=1, n_max=1, schedule="none", num_stages=1)
    got, _ = collect(engines, make_prompts(1), config)
    assert got.keys() == {(3, 0)}
    assert got[3, 0][1] == baseline[3, 0][1]


def test_no_prompts_are_no_work(engines):
    got, stats = collect(engines, make_prompts(0))
    assert got == {} and stats.decode_steps == 0


def test_a_work_list_filled_to_the_last_row(engines, baseline):
    config = dataclasses.replace(CONFIG, n_pre=12, schedule="none")
    assert engines.roomy.config.requests == COUNT * 12
    got, _ = collect(engines, make_prompts(), config)
    assert len(got) == COUNT * 12
    first = {key: x for key, x in baseline.items() if x[0] == 0}
    assert_same_answers({key: got[key] for key in first}, first)


@pytest.mark.parametrize(("rows", "message"), [
    ([*range(COUNT * 12), 0], "room for 132"),  # the queue does not wrap
    ([COUNT * 12], "row 132"),
])  # fmt: skip
def test_a_request_that_has_no_room_is_refused(engines, rows, message):
    session = Session(engines.roomy, engines.params, 4)
    session.prefill([(0, 0, make_prompts(1).tokens[0])])
    with pytest.raises(ValueError, match=message):
        session.enqueue([Request(0, row, 0, (0, 0, 0, 0, row), 1) for row in rows],
                        CONFIG.sampling)  # fmt: skip


@pytest.mark.parametrize("length", [0, 11])
def test_a_prompt_that_does_not_fit_is_refused(engines, length):
    session = Session(engines.roomy, engines.params, 4)
    with pytest.raises(ValueError, match=f"{length} tokens: 1 to 10"):
        session.prefill([(0, 0, np.full(length, 9, np.int32))])


class Notes(stages.Journal):
    """A journal in memory; `held` and `known` are what an earlier run has left."""

    def __init__(self, held=(), known=()):
        self._answers = {c[0]: c for c in held}
        self.held = {c[0]: c[1] for c in held}
        self._known = dict(known)
        self.completions, self.grades = [], []

    def completion(self, request):
        return self._answers[request][2:]

    def grade(self, request):
        return self._known.get(request)

    def sampled(self, completions):
        self.completions += completions

    def graded(self, grades):
        self.grades += grades


@pytest.fixture(scope="module")
def noted(engines, baseline):
    notes = Notes()
    got, stats = collect(engines, make_prompts(), journal=notes)
    assert stats.recovered == 0
    assert got.keys() == baseline.keys()
    for key, want in baseline.items():
        assert got[key][:4] == want[:4] and (got[key][4] == want[4]).all()
    assert len(notes.completions) == len(dict(notes.grades)) == len(baseline)
    return notes


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("way", ["roomy", "cramped"])
def test_only_what_a_journal_lacks_is_sampled_and_graded(engines, baseline, noted, kept, way):
    rng = np.random.default_rng(round(10 * kept))
    held = [c for c in noted.completions if rng.random() < kept]
    known = {c[0] for c in held if rng.random() < 0.5 or kept == 1.0}
    notes = Notes(held, [(r, g) for r, g in noted.grades if r in known])
    got, stats = collect(engines, make_prompts(), programs=getattr(engines, way), journal=notes)
    everything = {c[0] for c in noted.completions}
    assert sorted(c[0] for c in notes.completions) == sorted(everything - notes.held.keys())
    assert sorted(r for r, _ in notes.grades) == sorted(everything - known)
    assert stats.recovered == len(held) and (stats.decode_steps == 0) == (kept == 1.0)
    assert_same_answers(got, baseline)
    uid = make_prompts().uid
    for request, _, _, logprob in held:
        key = int(uid[request // CONFIG.n_max]), request % CONFIG.n_max
        assert (got[key][4] == logprob).all()


def test_a_journal_of_another_allocation_is_not_believed(engines, baseline, noted):
    later = [(request, 1 - stage, ids, logprob) for request, stage, ids, logprob
             in noted.completions]  # fmt: skip
    wrong = [(request, Grade(1.0 - grade.reward, grade.verdict)) for request, grade in noted.grades]
    got, stats = collect(engines, make_prompts(), journal=Notes(later, wrong))
    assert stats.recovered == 0
    assert_same_answers(got, baseline)


def test_slow_grades_in_any_order_change_nothing(engines, baseline):
    class Slow(FunctionGrader):
        """Hands out at most two grades a time, the newest first."""

        def collect(self, *, wait, timeout_s=None):
            self._held = getattr(self, "_held", []) + super().collect(wait=wait)
            taken, self._held = self._held[-2:], self._held[:-2]
            return taken if wait or len(self._held) % 2 else (self._held.extend(taken) or [])

    got, _ = collect(engines, make_prompts(), grader=Slow(is_right))
    assert_same_answers(got, baseline)


def test_a_later_session_compiles_nothing(engines, baseline, compilations):
    config = dataclasses.replace(CONFIG, steps_per_dispatch=7)
    for step in range(5, 9):  # any number of slots and requests comes in a few sizes
        collect(engines, make_prompts(), config, step=step)
    before = len(compilations)
    for step in range(5, 9):
        collect(engines, make_prompts(), config, step=step)
    assert len(compilations) == before
    jax.jit(lambda x: x * 1.2345)(np.float32(1))
    assert len(compilations) == before + 1  # it does count


# JetStream's interface over the same slots ------------------------------------------------------


@pytest.mark.parametrize("k", [1, 4])
def test_jetstreams_interface_gives_the_same_answers(engines, baseline, k):
    engine = PolicyEngine(engines.roomy, None, CONFIG.sampling, steps_per_dispatch=k)
    assert isinstance(engine, engine_api.Engine)
    assert engine.max_concurrent_decodes == 32 and engine.max_prefill_length == 10
    prompts = make_prompts()
    state = engine.init_decode_state()
    wanted = {}
    for slot, p in [(30, 2), (0, 3), (7, 10), (8, 1)]:
        tokens = np.pad(prompts.tokens[p], (0, 10 - len(prompts.tokens[p])))
        prefix = engine.prefill(
            params=engines.params, padded_tokens=tokens, true_length=len(prompts.tokens[p]),
            stream=(0, 3, 0, int(prompts.uid[p]), slot % 4),
        )  # fmt: skip
        state = engine.insert(prefix, state, slot)
        wanted[slot] = baseline[int(prompts.uid[p]), slot % 4]
    got = {slot: ([], []) for slot in wanted}
    for call in range(12 // k + 1):
        state, result = engine.generate(engines.params, state)
        result = result.convert_to_numpy()
        for slot in wanted:
            data = result.get_result_at_slot(slot)
            assert data.tokens.shape == data.valid.shape == (1, k)
            live = data.valid[0].astype(bool)
            got[slot][0].extend(data.tokens[0][live].tolist())
            got[slot][1].extend(result.logprobs(slot)[live].tolist())
            if call == 0:
                assert data.lengths[0] == 1
        assert not result.get_result_at_slot(5).valid.any()
    for slot, (_, ids, _, _, logprob) in wanted.items():
        assert tuple(got[slot][0]) == ids
        np.testing.assert_allclose(got[slot][1], logprob, atol=2e-5)


def test_jetstream_prompts_beyond_the_limit_are_refused(engines):
    engine = PolicyEngine(engines.roomy, None, CONFIG.sampling)
    for length in (0, 11):
        with pytest.raises(ValueError, match="10"):
            engine.prefill(params=engines.params, padded_tokens=np.zeros(11, np.int32),
                           true_length=length)  # fmt: skip


@pytest.mark.parametrize(("step", "where"), [(3, "step 4"), (-1, "evaluation")])
def test_log_probs_that_are_not_finite_end_the_collection_and_name_the_prompt(engines, step, where):
    prompts = Prompts(
        tokens=tuple(np.array([t, 12, 13], np.int32) for t in (20, 21, 22)),
        uid=np.array([5, 6, 9]), answer=(("3",),) * 3, text=("one", "the bad\none", "three"),
    )  # fmt: skip
    params = dict(engines.params)
    params["embedding"] = params["embedding"].at[21].set(jnp.nan)
    broken = types.SimpleNamespace(roomy=engines.roomy, params=params)
    told = f"^{where}: the policy's log-probs for the prompt of row 7, 'the bad one' are not finite"
    with pytest.raises(NonFiniteError, match=told):
        collect(broken, prompts, step=step)
