"""A client of the gRPC service, for whoever has no stub of JetStream's."""

from collections.abc import Sequence

import grpc
from jetstream.core.proto import jetstream_pb2

DECODE = "/jetstream_proto.Orchestrator/Decode"


def message(prompt: Sequence[int] | str, max_tokens: int) -> bytes:
    """A request of ids or of text, as it travels."""
    content = jetstream_pb2.DecodeRequest
    if isinstance(prompt, str):
        asked = content(max_tokens=max_tokens, text_content=content.TextContent(text=prompt))
    else:
        asked = content(max_tokens=max_tokens, token_content=content.TokenContent(token_ids=prompt))
    return asked.SerializeToString()


def decode(channel: grpc.aio.Channel) -> grpc.aio.UnaryStreamMultiCallable:
    """Call it with a `message` -> replies, of which `ids` reads the tokens."""
    return channel.unary_stream(DECODE)


def ids(reply: bytes) -> list[int]:
    """The tokens that a reply adds to the answer."""
    samples = jetstream_pb2.DecodeResponse.FromString(reply).stream_content.samples
    return [int(i) for sample in samples for i in sample.token_ids]
