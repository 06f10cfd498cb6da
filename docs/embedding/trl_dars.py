"""DARS in TRL's GRPOTrainer: one method, and one that listens.  For trl 1.16.0 and one process.

    pip install torch trl==1.16.0 && python docs/embedding/trl_dars.py

trains a random Llama of 14,000 parameters on the CPU.  The task: name a letter before (<) or after
(>) the given one, which is hard for "<b", where only a is right, and easy for ">c".
"""

import tempfile

import datasets
import numpy as np
import tokenizers
import torch
import transformers
import trl
from trl.trainer.utils import pad

from dars_jax.allocator import rows, top_up
from dars_jax.objective import group_advantages


class DARSTrainer(trl.GRPOTrainer):
    """Pre-rollouts, top-ups by difficulty, advantages over both, and a loss that is a sum.

    The configuration has loss_type="dr_grpo" and scale_rewards="none".
    """

    schedule, n_max = "hw", 32
    steps = ()  # what happened, for the table below

    def _calculate_rewards(self, inputs, *rest):
        by_function = super()._calculate_rewards(inputs, *rest)
        rewards = (by_function * self.reward_weights.to(by_function.device)).nansum(dim=1)
        self.rewards = rewards.where(~by_function.isnan().all(dim=1), torch.nan).cpu().numpy()
        return by_function

    def _generate_and_score_completions(self, inputs):
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        if self.accelerator.num_processes > 1:
            raise ValueError("groups lie across processes: top-ups are for one process here")
        n = self.num_generations
        parts = [super()._generate_and_score_completions(inputs)]
        rewards, prompt = self.rewards, np.arange(len(inputs)) // n
        correct = np.sum(rewards.reshape(-1, n) >= 0.5, axis=1)
        more = np.asarray(top_up(correct, n, schedule=self.schedule, n_max=self.n_max))
        self.num_generations = 1  # TRL reshapes rewards by it
        for mine in rows.expand(more, len(inputs)):
            mine = mine[mine >= 0]
            further = [inputs[p * n] for p in mine]
            parts.append(super()._generate_and_score_completions(further))
            rewards, prompt = np.append(rewards, self.rewards), np.append(prompt, mine)
        self.num_generations = n

        graded = ~np.isnan(rewards)  # a reward function may answer None
        advantages = np.asarray(group_advantages(rewards, prompt, len(more), mask=graded))
        lengths = [int(mask.sum()) for part in parts for mask in part["completion_mask"]]
        asked = [inputs[i]["prompt"] for i in range(0, len(inputs), n)]
        self.steps += ((asked, correct, more, prompt, advantages, lengths),)
        # TRL shuffles rows and cuts them into equal parts, without a remainder: others fill up.
        pulling, cuts = np.count_nonzero(advantages), self.args.steps_per_generation
        count = -(-max(pulling, 1) // cuts) * cuts
        taken = np.resize(np.argsort(advantages == 0, kind="stable"), count)
        # "dr_grpo" divides by the rows of a part.  This makes it the pre-rollouts, a constant.
        scaled = torch.tensor(advantages[taken] * (count / len(inputs)))
        scaled[pulling:] = 0
        batch = {key: self._joined(parts, key, taken) for key in parts[0]}
        return batch | {
            "advantages": scaled.float().to(self.accelerator.device),
            "num_items_in_batch": batch["completion_mask"].sum(),
        }

    def _joined(self, parts, key, taken):
        """Rows `taken` of all stages, which TRL has padded each to its own longest."""
        if parts[0][key].ndim < 2:
            return parts[0][key]
        side = "left" if key.startswith("prompt") else "right"
        fill = self.processing_class.pad_token_id if key.endswith("_ids") else 0
        each = [row for part in parts for row in part[key]]
        return pad([each[i] for i in taken], padding_value=fill, padding_side=side)


SIGNS = "<>abcdefghijklmnop"


def in_order(prompts, completions, **_):
    pairs = zip(prompts, completions, strict=True)
    return [float(bool(c) and (c[0] < p[1] if p[0] == "<" else c[0] > p[1])) for p, c in pairs]


def make_tokenizer():
    """A token for each sign."""
    names = ["<pad>", "<eos>", "<unk>", *SIGNS]
    letters = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>")
    )
    letters.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    letters.decoder = tokenizers.decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=letters, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def make_trainer(num_steps, folder):
    """GRPOTrainer's usual parts, small: 4 prompts a step in 2 micro-batches, 8 pre-rollouts."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=21, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
            num_attention_heads=2, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        )
    )  # fmt: skip
    arguments = trl.GRPOConfig(
        folder, max_steps=num_steps, learning_rate=1e-2, lr_scheduler_type="constant", use_cpu=True,
        per_device_train_batch_size=16, gradient_accumulation_steps=2, num_generations=8,
        max_completion_length=3, loss_type="dr_grpo", scale_rewards="none", beta=0.0,
        logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, bf16=False,
    )  # fmt: skip
    prompts = [{"prompt": prompt} for prompt in ("<b", "<e", ">h", ">c")]
    return DARSTrainer(
        model, in_order, args=arguments, train_dataset=datasets.Dataset.from_list(prompts),
        processing_class=make_tokenizer(),
    )  # fmt: skip


def main(num_steps=8):
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(num_steps, folder)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    for step, (prompts, correct, more, prompt, *_) in enumerate(trainer.steps):
        each = sorted(zip(prompts, correct, more, strict=True))
        seen = " ".join(f"{p} {k}/8 +{m:<2}" for p, k, m in each)
        print(f"step {step}: {seen}  rollouts {len(prompt)}  loss {losses[step]:+.4f}")
    return trainer


if __name__ == "__main__":
    main()
