"""DARS in tunix's GRPOLearner: one subclass, one method.  Written for google-tunix 0.1.7.

    pip install google-tunix==0.1.7 && python docs/embedding/tunix_dars.py

trains a random Qwen3 of 13,000 parameters on the CPU.  The task: name a letter before (<) or after
(>) the given one, which is hard for "<b", where only a is right, and easy for ">c".
"""

import jax
import numpy as np
import optax
from flax import nnx
from tunix.models.qwen3 import model as qwen3
from tunix.rl import function_registry, rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout

from dars_jax.allocator import rows, top_up
from dars_jax.objective import group_advantages

MODE = rl_cluster.Mode
# What tunix calls advantages are then the rewards themselves, until whole groups are there.
function_registry.register_advantage_estimator("rewards")(lambda rewards, **_: rewards)


class DARSLearner(grpo_learner.GRPOLearner):
    """Pre-rollouts, top-ups by difficulty, advantages over both, and a loss that is a sum.

    The configuration has advantage_estimator="rewards", loss_agg_mode="sequence-mean-token-scale"
    (Dr. GRPO), and rollout_micro_batch_size = mini_batch_size.
    """

    schedule, n_max = "hw", 32
    steps = ()  # what happened, for the table below

    def _process_accumulated_batches(self, micro_batches, micro_batch_sizes, mode):
        if not micro_batches:  # tunix asks once more at the end of a step
            return []
        merged = rl_cluster.rl_utils.merge_micro_batches(micro_batches)
        size, n = sum(micro_batch_sizes), self._num_generations()
        first = np.arange(size)
        example = self._sample(merged, first, mode, draw=0)
        rewards, prompt = example.advantages, first // n
        correct = np.sum(np.reshape(rewards, (-1, n)) >= 0.5, axis=1)
        more = np.zeros_like(correct)
        if mode == MODE.TRAIN:
            more = np.asarray(top_up(correct, n, schedule=self.schedule, n_max=self.n_max))
        # Top-ups come in batches of the first one's shape, so that nothing is compiled anew.
        for draw, mine in enumerate(rows.expand(more, size), start=1):
            part = self._sample(merged, np.maximum(mine, 0) * n, mode, draw)
            example = jax.tree.map(lambda *x: np.concatenate(x), example, part)
            prompt = np.concatenate([prompt, mine])

        advantages = np.asarray(group_advantages(example.advantages, prompt, len(more)))
        if mode == MODE.TRAIN:
            lengths = example.completion_mask.sum(axis=1)
            self.steps += ((merged["prompts"][::n], correct, more, prompt, advantages, lengths),)
        kept = (advantages != 0) & np.any(example.completion_mask, axis=1)
        dealt = rows.deal(
            kept if kept.any() else prompt >= 0,
            len(micro_batch_sizes),
            multiple=self.rl_cluster.r2m[rl_cluster.Role.ACTOR].size,
        )
        return [self._micro_batch(example, advantages, mine, len(dealt) / size) for mine in dealt]

    def _sample(self, merged, index, mode, draw):
        """One rollout of each row `index` of the batch: a TrainExample with rewards in it."""
        # Without a seed tunix samples with the same noise at every call.
        config = self.rl_cluster.get_rollout_config(mode)
        config.seed = int(np.random.SeedSequence((self._iter_steps, draw)).generate_state(1)[0])
        batch = {key: [values[i] for i in index] for key, values in merged.items()}
        return jax.tree.map(np.asarray, self._generate_and_compute_advantage(batch, mode))

    def _micro_batch(self, example, advantages, mine, scale):
        """Rows `mine` of the batch, of which -1 is padding.

        tunix divides the loss of a micro-batch by its own rollouts, and then takes the mean over
        micro-batches.  `scale` times that number undoes both: what remains is the sum over all
        rollouts, divided by the pre-rollouts and the longest completion, both constants.
        """
        real = mine >= 0
        part = jax.tree.map(lambda x: x[mine], example)
        mask = part.completion_mask & real[:, None]
        count = np.sum(mask.any(axis=1))
        mine = np.where(real, advantages[mine], 0) * count * scale
        return part.replace(advantages=mine.astype(np.float32), completion_mask=mask)


SIGNS = "<>abcdefghijklmnop"
PROMPTS = np.array(["<b", "<e", ">h", ">c"])  # lists tunix repeats only in micro-batches


class Letters:
    """A tokenizer: padding 0, beginning 1, end 2, then the signs."""

    pad_id, bos_id, eos_id = (lambda self: 0), (lambda self: 1), (lambda self: 2)

    def encode(self, text):
        return [SIGNS.index(sign) + 3 for sign in text]

    def decode(self, ids):
        return "".join(SIGNS[i - 3] for i in ids if i >= 3)


def in_order(prompts, completions, **_):
    pairs = zip(prompts, completions, strict=True)
    return [float(bool(c) and (c[0] < p[1] if p[0] == "<" else c[0] > p[1])) for p, c in pairs]


def make_learner(num_steps):
    """GRPOLearner's usual parts, small: 4 prompts a step in 2 micro-batches, 8 pre-rollouts."""
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    shape = qwen3.ModelConfig(
        num_layers=1, vocab_size=21, embed_dim=32, hidden_dim=64, num_heads=2, head_dim=16,
        num_kv_heads=1, rope_theta=10_000, norm_eps=1e-6,
    )  # fmt: skip
    cluster = rl_cluster.RLCluster(
        actor=qwen3.Qwen3(shape, rngs=nnx.Rngs(0)),
        tokenizer=Letters(),
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(rl_cluster.Role, mesh),
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optax.adam(2e-3), max_steps=num_steps, eval_every_n_steps=10**6,
                mini_batch_size=4, train_micro_batch_size=2, rollout_micro_batch_size=4,
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=3, max_prompt_length=4, kv_cache_size=16, temperature=1.0
            ),
        ),
    )  # fmt: skip
    config = grpo_learner.GRPOConfig(
        num_generations=8, beta=0.0, advantage_estimator="rewards",
        loss_agg_mode="sequence-mean-token-scale",
    )  # fmt: skip
    return DARSLearner(rl_cluster=cluster, algo_config=config, reward_fns=in_order)


def main(num_steps=8):
    learner = make_learner(num_steps)
    learner.train([{"prompts": PROMPTS}] * num_steps)
    history = learner.rl_cluster.actor_trainer.metrics_logger
    losses = history.get_metric_history("actor", "loss", "train")
    for step, (prompts, correct, more, prompt, *_) in enumerate(learner.steps):
        seen = " ".join(
            f"{p} {k}/8 +{m:<2}" for p, k, m in zip(prompts, correct, more, strict=True)
        )
        print(f"step {step}: {seen}  rollouts {(prompt >= 0).sum()}  loss {losses[step]:+.4f}")
    return learner


if __name__ == "__main__":
    main()
