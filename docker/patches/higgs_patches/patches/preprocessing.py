"""Preprocess requests in a thread, one at a time, and cache encoded audio.

Before a request reaches the engine its prompt is processed, and reference audio encoded by two
neural networks: seconds on a CPU. The fork does so on the event loop, so nothing else is answered
meanwhile, not even /health. Here

- it runs in a thread of its own, in order of arrival;
- the codes of an audio are kept (`AUDIOS` of them), since a voice's recording never changes;
- every request has an id of its own in the engine, whatever id the client has sent: two requests
  with the same X-Request-Id would end each other;
- a request whose reader has gone is ended in the engine, however the reader went;
- children of a request with n > 1 inherit the processed settings: without max_tokens, the engine
  would end.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Any

from higgs_patches.lib.errors import RefusedError
from higgs_patches.lib.speech_collector import ENOUGH, SpeechCollector

PATCH = {
    "title": "Encode reference audio off the event loop, once, and keep requests apart",
    "issues": [],
    "why": (
        "AsyncLLM.add_request processes prompts on the event loop: /health stalls for seconds. "
        "Two requests with one X-Request-Id abort each other, a reader that goes while the sound "
        "is decoded leaves its request running, and n > 1 without max_tokens ends the engine."
    ),
    "obsolete_when": (
        "AsyncLLM.add_request processes inputs in a thread, and gives requests ids of its own."
    ),
    "targets": [
        {
            "file": "vllm/v1/engine/async_llm.py",
            "name": "AsyncLLM.add_request",
            "how": "replace",
            "with": "add_request",
            "sha256": "cac187674ad0ae4396e1a5f38938f18ed27ee4eadf646a12bc80559569748706",
        },
        {
            "file": "vllm/v1/engine/async_llm.py",
            "name": "AsyncLLM.generate",
            "how": "wrap",
            "with": "with_unique_id",
            "sha256": "617609922c283c44101eeff47885ef2769676122ad59ce23e89f270243840a0f",
        },
        {
            "file": "vllm/model_executor/models/higgs_audio_tokenizer.py",
            "name": "AudioTokenizer.encode",
            "how": "wrap",
            "with": "cached",
            "sha256": "1199ad79c0683ef1d23dcb8d0ad9c6fc8e6066c206ee525d01a9e5ac72a8a777",
        },
    ],
}

AUDIOS = 256
"""Audios whose codes are kept: 48 KB each for 30 s."""

_THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inputs")


async def add_request(
    self: Any,
    request_id: str,
    prompt: Any,
    params: Any,
    arrival_time: float | None = None,
    lora_request: Any = None,
    trace_headers: Any = None,
    prompt_adapter_request: Any = None,
    priority: int = 0,
) -> Any:
    """Process a request and add it to the engine (method of AsyncLLM).

    Returns:
        The collector of the request's outputs.

    Raises:
        RefusedError: there is no memory for its audio.
        ValueError: the request cannot be processed.
    """
    from vllm.v1.engine.output_processor import RequestOutputCollector
    from vllm.v1.engine.parallel_sampling import ParentRequest

    if enough := ENOUGH.get():
        queue: Any = SpeechCollector(enough)
    else:
        queue = RequestOutputCollector(output_kind=params.output_kind)
    try:
        request = await asyncio.get_running_loop().run_in_executor(
            _THREAD,
            self.processor.process_inputs,
            request_id,
            prompt,
            params,
            time.time() if arrival_time is None else arrival_time,
            lora_request,
            trace_headers,
            prompt_adapter_request,
            priority,
        )
    except RuntimeError as error:  # vLLM's own, around whatever the audio tokenizer raised
        if isinstance(error.__cause__, RefusedError):
            raise error.__cause__ from None
        raise
    if params.n == 1:
        await self._add_request(request, None, 0, queue)
        return queue
    parent = ParentRequest(request_id, request.sampling_params)
    for index in range(params.n):
        child = copy(request)
        child.request_id, child.sampling_params = parent.get_child_info(index)
        await self._add_request(child, parent, index, queue)
    return queue


def with_unique_id(
    original: Callable[..., AsyncGenerator[Any, None]],
) -> Callable[..., AsyncGenerator[Any, None]]:
    """Generate under an id that no other request has; end the request when its reader goes."""

    @functools.wraps(original)
    async def generate(
        self: Any, prompt: Any, sampling_params: Any, request_id: str, *args: Any, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        own_id = f"{request_id}-{uuid.uuid4().hex}"
        outputs = original(self, prompt, sampling_params, own_id, *args, **kwargs)
        try:
            async for output in outputs:
                output.request_id = request_id
                yield output
        finally:
            await outputs.aclose()
            processor = self.output_processor
            if own_id in processor.request_states or own_id in processor.parent_requests:
                await self.abort(own_id)

    return generate


def cached(original: Callable[..., Any]) -> Callable[..., Any]:
    """Encode an audio once: the same samples have the same codes. They stay in the CPU's memory."""
    lock = threading.Lock()

    @functools.wraps(original)
    def encode(self: Any, audio: Any, sr: Any = None, *args: Any, **kwargs: Any) -> Any:
        import numpy as np

        if not isinstance(audio, np.ndarray):
            return original(self, audio, sr, *args, **kwargs)
        what = repr((audio.shape, audio.dtype.str, sr, args, sorted(kwargs.items())))
        key = hashlib.blake2b(what.encode(), digest_size=32)
        key.update(np.ascontiguousarray(audio).data)
        name = key.digest()
        codes: OrderedDict[bytes, Any] = self.__dict__.setdefault("higgs_cached", OrderedDict())
        with lock:
            if name in codes:
                codes.move_to_end(name)
                return codes[name]
        found = original(self, audio, sr, *args, **kwargs).cpu()
        with lock:
            codes[name] = found
            if len(codes) > AUDIOS:
                codes.popitem(last=False)
        return found

    return encode
