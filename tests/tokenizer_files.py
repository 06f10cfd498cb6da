"""Model directories with a byte-level tokenizer of their own."""

import json

import tokenizers

SPECIAL = ["<|end|>", "<|pad|>", "<|begin|>", "<|turn|>", "<|unused|>"]
END, PAD, BEGIN, TURN, UNUSED = range(5)


def byte_level_bpe():
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=SPECIAL, initial_alphabet=alphabet, vocab_size=300, show_progress=False
    )
    model.train_from_iterator(["what is the sum of the numbers"], trainer)
    return model


def template_processor(single):
    return tokenizers.processors.TemplateProcessing(
        single=single, special_tokens=[("<|begin|>", BEGIN), ("<|end|>", END)]
    )


def chat_config(template, **more):
    named = {"eos_token": "<|end|>", "bos_token": "<|begin|>"}
    return {"tokenizer_config_json": named | {"chat_template": template} | more}


def write(directory, model=None, **files):
    """A model directory; a keyword `config_json={…}` becomes the file config.json."""
    (model or byte_level_bpe()).save(str(directory / "tokenizer.json"))
    files = {"tokenizer_config_json": {"eos_token": "<|end|>"}} | files
    for name, content in files.items():
        (directory / name.replace("_json", ".json")).write_text(json.dumps(content))
    return directory
