"""Whether a policy directory still holds what it held: one digest, soon made at any size."""

import hashlib
import pathlib

from dars_jax.policy import weights
from dars_jax.policy.hf_config import existing, inside

_PAGES, _PAGE = 64, 4096  # of each file of weights: how many are read, and bytes of one


def fingerprint(directory: str | pathlib.Path) -> str:
    """SHA-256 over configuration and tokenizer files whole, and a sample of the weights.

    Of each safetensors file: its header, its size, and 64 pages of 4 KiB spread over it.  Training
    moves nearly every weight, so another policy of the same sizes differs on some of them.  Where
    the directory lies does not matter; how the weights are divided into files does.

    Raises:
      ValueError: no such directory, or no readable weights in it.
    """
    root = existing(directory)
    digest = hashlib.sha256()
    for name in sorted(("config.json", "generation_config.json", *weights.TOKENIZER_FILES)):
        if (root / name).exists():
            content = inside(root, name).read_bytes()
            digest.update(f"{name} {len(content)} ".encode() + content)
    for path in weights.files(root):
        size = path.stat().st_size
        digest.update(f"weights {size} ".encode())
        with open(path, "rb") as file:
            header = file.read(8)
            digest.update(header + file.read(int.from_bytes(header, "little")))
            for page in range(_PAGES):
                file.seek(max(size - _PAGE, 0) * page // (_PAGES - 1))
                digest.update(file.read(_PAGE))
    return digest.hexdigest()
