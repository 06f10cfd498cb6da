"""Requests to servers of the policy, and a tokenizer whose texts are ids."""

from jetstream.core.proto import jetstream_pb2


class Words:
    """A tokenizer whose texts are ids with spaces between them."""

    vocab_size, bos_id, pad_id = 61, None, 33

    def __init__(self, eos_ids):
        self.eos_ids = eos_ids

    def encode(self, text):
        return [int(word) for word in text.split()]

    encode_prompt = encode

    def decode(self, ids):
        return " ".join(map(str, ids))


def request_of(prompt, max_tokens=12, **fields):
    """A request of ids, or of text if the prompt is text."""
    content = jetstream_pb2.DecodeRequest
    if isinstance(prompt, str):
        fields["text_content"] = content.TextContent(text=prompt)
    elif prompt is not None:
        fields["token_content"] = content.TokenContent(token_ids=prompt)
    return jetstream_pb2.DecodeRequest(max_tokens=max_tokens, **fields)


def ask(stub, *arguments, **fields):
    """(ids, text) of a whole answer."""
    ids, said = [], ""
    for response in stub.Decode(request_of(*arguments, **fields), timeout=60):
        (sample,) = response.stream_content.samples
        ids += sample.token_ids
        said += sample.text
    return ids, said
