"""Prompts from datasets that TensorFlow Datasets has prepared."""

import resource
import subprocess
import sys

import pytest
from prompt_rows import load

from dars_jax.commands import cli
from dars_jax.data import sources
from dars_jax.data.prompts import load_examples
from dars_jax.data.tokenizer import load_tokenizer
from dars_jax.tasks import countdown


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


def test_countdown_is_prepared_once_and_read_without_tensorflow(data_dir):
    code = f"""
import sys
from dars_jax.commands import cli
from dars_jax.data import sources
from dars_jax.data.prompts import load_examples
from dars_jax.data.tokenizer import load_tokenizer
from dars_jax.tasks import countdown
countdown.train_tokenizer({str(data_dir / "tokenizer.model")!r})
assert "tensorflow_datasets" not in sys.modules
tokenizer = load_tokenizer({str(data_dir / "tokenizer.model")!r})
load_examples("tfds:countdown:train", tokenizer, chat=False, max_prompt_tokens=16,
              data_dir={str(data_dir)!r})
assert "tensorflow" not in sys.modules
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout == ""
    files = {path: path.stat().st_mtime_ns for path in (data_dir / "countdown").rglob("*.array*")}
    assert len(files) == 2

    tokenizer = load_tokenizer(data_dir / "tokenizer.model")
    for split, problems in (
        ("train", countdown.train_problems()),
        ("test", countdown.test_problems()),
    ):
        examples = load_examples(
            f"tfds:countdown:{split}",
            tokenizer,
            chat=False,
            max_prompt_tokens=8,
            data_dir=str(data_dir),
        )
        assert tuple(e.prompt for e in examples.rows) == problems
        assert [e.uid for e in examples.rows] == list(range(len(problems)))
        first = examples.rows[0]
        assert first.answer == (countdown.answer_of(problems[0]),)
        assert first.source == "countdown"
        assert first.tokens.tolist() == [tokenizer.bos_id, *tokenizer.encode(problems[0])]
    assert files == {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_any_prepared_dataset_is_read_by_name_and_fields(tmp_path, file_format):
    import tensorflow_datasets as tfds

    class Squares(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        code_path = None

        def _info(self):
            gold = tfds.features.Sequence(tfds.features.Text())
            features = {"question": tfds.features.Text(), "gold": gold}
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(5):
                yield i, {"question": f"{i}²?", "gold": [f"{i * i}", f"{i}^2"]}

    Squares(data_dir=str(tmp_path), file_format=file_format).download_and_prepare()
    options = {"prompt_field": "question", "answer_field": "gold", "data_dir": str(tmp_path)}
    examples = load("tfds:squares:train", **options)
    assert [e.prompt for e in examples.rows] == [f"{i}²?" for i in range(5)]
    assert [e.uid for e in examples.rows] == list(range(5))
    assert examples.rows[3].answer == ("9", "3^2")
    assert examples.rows[3].source == "squares"
    assert [e.prompt for e in load("tfds:squares:train[1:3]", **options).rows] == ["1²?", "2²?"]
    with pytest.raises(ValueError, match="no field 'problem'; there are 'gold', 'question'"):
        load("tfds:squares:train", data_dir=str(tmp_path))


def test_a_dataset_that_was_not_prepared_or_a_split_that_is_not_there_is_refused(data_dir):
    with pytest.raises(FileNotFoundError, match="tfds:nothing: not prepared"):
        load("tfds:nothing:train", data_dir=str(data_dir))
    with pytest.raises(ValueError, match="Unknown split 'validation'"):
        load("tfds:countdown:validation", data_dir=str(data_dir))


@pytest.mark.parametrize("size", [1_000, 60_000])  # of the most that fits into a file
def test_a_full_disk_is_told_with_its_place_and_the_same_call_goes_on(size, tmp_path, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(SystemExit) as ended, cli.one_line_errors():
            sources.read_rows("tfds:countdown:train", str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ended.value.code == cli.EXIT_NOT_SAVED
    told = capsys.readouterr().err.splitlines()[-1]
    place = tmp_path / "countdown" / "1.0.0"
    assert told.startswith(f"error: {place} could not be written (File too large)")
    assert not list((tmp_path / "countdown").iterdir())  # nothing half prepared
    rows = [row["problem"] for _, row in sources.read_rows("tfds:countdown:train", str(tmp_path))]
    assert [row.decode() for row in rows] == list(countdown.train_problems())
