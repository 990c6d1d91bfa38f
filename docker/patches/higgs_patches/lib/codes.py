"""Draws the codes of the next audio frame, for a whole batch at once and without asking the device.

A frame has one code per codebook. The model gives logits (requests, codebooks, codes); temperature,
top-k, top-p and min-p of a request hold for all its codebooks. Everything here is plain tensor
arithmetic on the logits' device: nothing waits for a result, so a GPU never stands still.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

GREEDY_BELOW = 1e-5
"""A temperature below this takes the likeliest code (vLLM writes -1 for such requests)."""


@dataclass
class Drawing:
    """How each request of a batch draws; the tensors have one entry per request.

    Attributes:
        temperature: None if all requests take the likeliest code.
        top_k: number of likeliest codes to draw from; None for all, also any number above theirs.
        top_p: share of the probability to draw from; None for all.
        min_p: least probability relative to the likeliest code; None for none.
        some_greedy: whether any request takes the likeliest code.
        generators: request's index to its own source of chance; the others share torch's.
    """

    temperature: Tensor | None
    top_k: Tensor | None
    top_p: Tensor | None
    min_p: Tensor | None
    some_greedy: bool
    generators: Mapping[int, torch.Generator]


def draw(
    logits: Tensor, how: Drawing, windows: Tensor | None = None, repeats: Tensor | None = None
) -> Tensor:
    """Return one code per request and codebook, int64 (requests, codebooks).

    Args:
        logits: (requests, codebooks, codes), float32; kept as they are.
        how: the requests' settings.
        windows: (requests, frames, codebooks) codes that were spoken last; None if no request
            samples with regard to repetition.
        repeats: (requests,) a code that stands in its codebook's window this often is drawn again
            from the plain distribution of the logits.
    """
    codes = _choose(logits, how)
    if windows is not None and repeats is not None:
        again = _race(logits, how.generators)
        count = (windows == codes.unsqueeze(1)).sum(1)
        codes = torch.where(count >= repeats.unsqueeze(1), again, codes)
    return codes


def _choose(logits: Tensor, how: Drawing) -> Tensor:
    if how.temperature is None:
        return logits.argmax(-1)
    drawn = _race(_restricted(logits / how.temperature.view(-1, 1, 1), how), how.generators)
    if not how.some_greedy:
        return drawn
    greedy = (how.temperature < GREEDY_BELOW).unsqueeze(1)
    return torch.where(greedy, logits.argmax(-1), drawn)


def _restricted(logits: Tensor, how: Drawing) -> Tensor:
    """The logits, and -inf where a request's settings forbid a code."""
    if how.min_p is not None:
        probabilities = logits.softmax(-1)
        least = how.min_p.view(-1, 1, 1) * probabilities.amax(-1, keepdim=True)
        logits = logits.masked_fill(probabilities < least, -torch.inf)
    if how.top_k is None and how.top_p is None:
        return logits
    ascending, places = logits.sort(-1)
    size = logits.shape[-1]
    if how.top_k is not None:
        first = (size - how.top_k.long().clamp(1, size)).view(-1, 1, 1)
        least = ascending.gather(-1, first.expand(*logits.shape[:-1], 1))
        ascending = ascending.masked_fill(ascending < least, -torch.inf)
    if how.top_p is not None:
        out = ascending.softmax(-1).cumsum(-1) <= 1 - how.top_p.view(-1, 1, 1)
        out[..., -1] = False
        ascending = ascending.masked_fill(out, -torch.inf)
    return ascending.scatter(-1, places, ascending)


def _race(logits: Tensor, generators: Mapping[int, torch.Generator]) -> Tensor:
    """Draw by probability: of independent exponential clocks the first to ring wins.

    This is what torch.multinomial does for one draw, but it does not wait for the device.
    """
    return logits.softmax(-1).div_(_clocks(logits, generators)).argmax(-1)


def _clocks(logits: Tensor, generators: Mapping[int, torch.Generator]) -> Tensor:
    """A request with a generator takes one block of numbers, and no other can change which."""
    clocks = torch.empty_like(logits)
    if len(generators) < len(clocks):
        clocks.exponential_()
    for request, generator in generators.items():
        clocks[request].exponential_(generator=generator)
    return clocks


def shaped(codes: Tensor, begun: Tensor, ended: Tensor, bos: int, eos: int) -> Tensor:
    """Give drawn codes the shape of a frame: codebook c speaks c frames after the first one.

    Args:
        codes: (requests, codebooks) as drawn.
        begun: (requests,) how many codebooks speak; the others get `bos`.
        ended: (requests,) how many codebooks have ended, 0 while the request speaks.
        bos: code before a codebook begins.
        eos: code after a codebook has ended. When a codebook draws it, those before it end too.
            Each further frame ends one more codebook, drawn or not: by the delay its speech is
            over, and without this a draw could begin new speech after the end.
    """
    books = torch.arange(codes.shape[1], device=codes.device)
    codes = torch.where(books >= begun.unsqueeze(1), bos, codes)
    ending = ended.unsqueeze(1)
    codes = torch.where((ending > 0) & (books <= ending), eos, codes)
    last = torch.where(codes == eos, books, -1).amax(1, keepdim=True)
    return torch.where(books < last, eos, codes)
