"""Sample the codes of the next audio frame, for a whole batch and without waiting for the device.

A frame has one code per codebook. The model gives logits (requests, codebooks, codes); temperature,
top-k, top-p and min-p of a request hold for all its codebooks. Everything here is plain tensor
arithmetic on the logits' device; nothing synchronizes with the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

GREEDY_BELOW = 1e-5
"""Below this temperature sampling is greedy (vLLM writes -1 for such requests)."""


@dataclass
class FrameSamplingParams:
    """Sampling parameters of a batch; the tensors have one entry per request.

    Attributes:
        temperature: None if all requests are greedy.
        top_k: number of likeliest codes to sample from; None, or a number above theirs, for all.
        top_p: share of the probability to sample from; None for all.
        min_p: least probability relative to the likeliest code; None for none.
        some_greedy: whether any request is greedy.
        generators: RNG by the request's index; the others share torch's.
    """

    temperature: Tensor | None
    top_k: Tensor | None
    top_p: Tensor | None
    min_p: Tensor | None
    some_greedy: bool
    generators: Mapping[int, torch.Generator]


def sample_frames(
    logits: Tensor,
    params: FrameSamplingParams,
    windows: Tensor | None = None,
    repeats: Tensor | None = None,
) -> Tensor:
    """Return one code per request and codebook, int64 (requests, codebooks).

    Args:
        logits: (requests, codebooks, codes), float32; kept as they are.
        params: the requests' settings.
        windows: (requests, frames, codebooks) the last codes; None if no request has
            repetition-aware sampling.
        repeats: (requests,) a code that stands in its codebook's window this often is sampled
            again from the plain distribution of the logits.
    """
    codes = _sample(logits, params)
    if windows is not None and repeats is not None:
        again = _sample_exponential(logits, params.generators)
        count = (windows == codes.unsqueeze(1)).sum(1)
        codes = torch.where(count >= repeats.unsqueeze(1), again, codes)
    return codes


def _sample(logits: Tensor, params: FrameSamplingParams) -> Tensor:
    if params.temperature is None:
        return logits.argmax(-1)
    sampled = _sample_exponential(
        _masked(logits / params.temperature.view(-1, 1, 1), params), params.generators
    )
    if not params.some_greedy:
        return sampled
    greedy = (params.temperature < GREEDY_BELOW).unsqueeze(1)
    return torch.where(greedy, logits.argmax(-1), sampled)


def _masked(logits: Tensor, params: FrameSamplingParams) -> Tensor:
    """The logits, and -inf where a request's settings forbid a code."""
    if params.min_p is not None:
        probabilities = logits.softmax(-1)
        least = params.min_p.view(-1, 1, 1) * probabilities.amax(-1, keepdim=True)
        logits = logits.masked_fill(probabilities < least, -torch.inf)
    if params.top_k is None and params.top_p is None:
        return logits
    ascending, places = logits.sort(-1)
    size = logits.shape[-1]
    if params.top_k is not None:
        first = (size - params.top_k.long().clamp(1, size)).view(-1, 1, 1)
        least = ascending.gather(-1, first.expand(*logits.shape[:-1], 1))
        ascending = ascending.masked_fill(ascending < least, -torch.inf)
    if params.top_p is not None:
        out = ascending.softmax(-1).cumsum(-1) <= 1 - params.top_p.view(-1, 1, 1)
        out[..., -1] = False
        ascending = ascending.masked_fill(out, -torch.inf)
    return ascending.scatter(-1, places, ascending)


def _sample_exponential(logits: Tensor, generators: Mapping[int, torch.Generator]) -> Tensor:
    """Sample by probability with exponential noise.

    torch.multinomial does the same for one sample, but synchronizes with the device.
    """
    return logits.softmax(-1).div_(_exponential_noise(logits, generators)).argmax(-1)


def _exponential_noise(logits: Tensor, generators: Mapping[int, torch.Generator]) -> Tensor:
    """Return noise; a generator gives one block of numbers, whatever else is in the batch."""
    noise = torch.empty_like(logits)
    if len(generators) < len(noise):
        noise.exponential_()
    for request, generator in generators.items():
        noise[request].exponential_(generator=generator)
    return noise


def apply_delay_pattern(codes: Tensor, begun: Tensor, ended: Tensor, bos: int, eos: int) -> Tensor:
    """Bring sampled codes into the delay pattern: codebook c starts c frames after the first one.

    Args:
        codes: (requests, codebooks) as sampled.
        begun: (requests,) how many codebooks have begun; the others get `bos`.
        ended: (requests,) how many codebooks have ended, 0 before the end.
        bos: code before a codebook begins.
        eos: code after a codebook has ended. When it is sampled for a codebook, those before it end
            too. Each further frame ends one more codebook, sampled or not: by the delay its audio
            is over, and without this a sample could begin new audio after the end.
    """
    books = torch.arange(codes.shape[1], device=codes.device)
    codes = torch.where(books >= begun.unsqueeze(1), bos, codes)
    ending = ended.unsqueeze(1)
    codes = torch.where((ending > 0) & (books <= ending), eos, codes)
    last = torch.where(codes == eos, books, -1).amax(1, keepdim=True)
    return torch.where(books < last, eos, codes)
