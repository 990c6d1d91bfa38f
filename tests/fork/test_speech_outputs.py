"""The server's own processing of what the engine says: speech is given when there is enough of it.

Runs inside the image (see test_engine_inside.py).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="runs inside the image: see test_engine_inside.py")

from higgs_patches.lib.speech_collector import SpeechCollector

pytestmark = pytest.mark.fork

FRAME = list(range(8))


class Server:
    """Two requests of which each step gives a frame: speech, and one that wants every token."""

    def __init__(self) -> None:
        from vllm.sampling_params import RequestOutputKind, SamplingParams
        from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector

        params = SamplingParams(output_kind=RequestOutputKind.DELTA, detokenize=False)
        group = SimpleNamespace(get_lora_tokenizer=lambda _: None)
        self.processor = OutputProcessor(group, log_stats=False)
        self.speech: Any = SpeechCollector(lambda frames: frames >= 25)
        self.other = RequestOutputCollector(params.output_kind)
        for name, queue in (("speech", self.speech), ("other", self.other)):
            request = SimpleNamespace(
                request_id=name, lora_request=None, prompt=None, prompt_token_ids=[1, 2],
                sampling_params=params, arrival_time=0.0,
            )  # fmt: skip
            self.processor.add_request(request, queue=queue)

    def step(self, number: int, reason: Any = None) -> None:
        from vllm.v1.engine import EngineCoreOutput

        outputs = [
            EngineCoreOutput(name, [number], [number] * 8, finish_reason=reason)
            for name in ("speech", "other")
        ]
        done = self.processor.process_outputs(outputs)
        assert not done.request_outputs
        assert not done.reqs_to_abort


@pytest.mark.needs(speech_outputs=True)
def test_speech_is_given_when_its_reader_can_go_on() -> None:
    server = Server()
    for number in range(24):
        server.step(number)
        assert server.speech.get_nowait() is None
        assert server.other.get_nowait().outputs[0].token_ids == [number]
    server.step(24)
    output = server.speech.get_nowait()
    [completion] = output.outputs
    assert completion.token_ids == list(range(25))
    assert completion.mm_token_ids == [[number] * 8 for number in range(25)]
    assert (output.prompt_token_ids, output.finished) == ([1, 2], False)


def test_the_end_of_speech_is_given_with_what_is_left() -> None:
    from vllm.v1.engine import FinishReason

    server = Server()
    for number in range(5):
        server.step(number)
    server.step(5, FinishReason.STOP)
    assert not server.processor.has_unfinished_requests()
    for queue in (server.speech, server.other):
        output = queue.get_nowait()
        [completion] = output.outputs
        assert completion.token_ids == list(range(6))
        assert completion.mm_token_ids == [[number] * 8 for number in range(6)]
        assert (output.finished, completion.finish_reason) == (True, "stop")
