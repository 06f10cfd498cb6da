"""The Countdown task as a TFDS dataset, in a file of its own because importing TFDS takes time."""

from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from dars_jax.tasks import countdown


class Countdown(tfds.core.GeneratorBasedBuilder):
    """4,096 training and 256 test problems, in the order of `countdown`; nothing to download."""

    # TFDS 4.9.10 would look this up with importlib_resources, which it does not install.
    code_path = Path(__file__)

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 (the name and form TFDS expects)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Reach a target with every given number, used once, by + - and *.",
            features=tfds.features.FeaturesDict(
                {"problem": tfds.features.Text(), "answer": tfds.features.Text()}
            ),
            disable_shuffling=True,  # row i on disk is problem i
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        return {
            "train": self._generate_examples(countdown.train_problems()),
            "test": self._generate_examples(countdown.test_problems()),
        }

    def _generate_examples(self, problems: tuple[str, ...]) -> Iterator[tuple[int, dict]]:
        for index, problem in enumerate(problems):
            yield index, {"problem": problem, "answer": countdown.answer_of(problem)}
