"""Prompts of a tokenizer of letters, so that they can be read back."""

from dars_jax.data.prompts import load_examples

BOS = 1


class Letters:
    """A tokenizer of letters whose chats are `role:content|…`, so that prompts can be read back."""

    def encode(self, text):
        return [ord(letter) for letter in text]

    def encode_prompt(self, text):
        return [BOS, *self.encode(text)]

    def render(self, messages):
        if len(messages) > 3:
            raise ValueError("too many turns")
        return "|".join(f"{m['role']}:{m['content']}" for m in messages)


def load(source, **options):
    return load_examples(
        str(source), Letters(), **{"chat": False, "max_prompt_tokens": 1000} | options
    )
