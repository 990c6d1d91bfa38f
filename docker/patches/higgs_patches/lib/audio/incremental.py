"""Decode codes to sound piece by piece, each frame once, for several utterances at a time.

The codec's decoder is a stack of convolutions, so sound depends on the frames around it. Decoding
a chunk by itself repeats the frames beside it, for nearly twice the work. Here every layer keeps
the last numbers that it has been given, as much as the next ones need, and goes on from there. What
comes out is the sound of the whole utterance, 9.85 frames later than the codes go in. So a first
piece that is not the last has at least 12 frames: then every layer has all that it keeps.

Utterances with pieces of one length are decoded as one batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from higgs_patches.lib.audio.codec_thread import Piece

State = list[Tensor]
"""What the layers keep of an utterance, in their order; it is replaced and never changed."""


class _Tape:
    """Gives the layers what they kept, in their order, and takes what they keep now."""

    def __init__(self, kept: State | None) -> None:
        self._kept = kept
        self.new: State = []

    @property
    def begins(self) -> bool:
        return self._kept is None

    def joined(self, x: Tensor, zeros: int) -> tuple[Tensor, Callable[[int], None]]:
        """Return `x` after what was kept, at the begin after zeros; and how to keep it from an
        index on."""
        place = len(self.new)
        if self._kept is not None:
            x = torch.cat((self._kept[place], x), -1)
        elif zeros:
            x = functional.pad(x, (zeros, 0))
        self.new.append(x)

        def keep(first: int) -> None:
            self.new[place] = x[..., first:].clone()

        return x, keep


_Layer = Callable[[Tensor, _Tape, bool], Tensor]


def _convolution(module: nn.Conv1d) -> _Layer:
    [kernel], [dilation], [padding] = module.kernel_size, module.dilation, module.padding
    if kernel == 1:
        return lambda x, _tape, _last: module(x)
    reach = (kernel - 1) * dilation
    convolve = _gathered if dilation > 1 and _on_cpu(module.weight) else functional.conv1d

    def run(x: Tensor, tape: _Tape, last: bool) -> Tensor:
        x, keep = tape.joined(x, padding)
        if last:
            x = functional.pad(x, (0, padding))
        else:
            keep(x.shape[-1] - reach)
        return convolve(x, module.weight, module.bias, dilation=dilation)

    return run


def _on_cpu(tensor: Tensor) -> bool:
    return bool(tensor.device.type == "cpu")


def _gathered(x: Tensor, weight: Tensor, bias: Tensor, *, dilation: int) -> Tensor:
    """Convolve on a CPU, for which PyTorch gathers dilated input number by number.

    The product is the same, and so is every bit of it.
    """
    count = x.shape[-1] - (weight.shape[-1] - 1) * dilation
    columns = x.unfold(-1, count, dilation).flatten(1, 2)
    return torch.baddbmm(bias[:, None], weight.flatten(1).expand(len(x), -1, -1), columns)


def _activation(module: Any) -> _Layer:
    """Run Snake1d: on a GPU as it is, where its operations are fused; on a CPU in place."""
    if not _on_cpu(module.alpha):
        return lambda x, _tape, _last: module(x)
    alpha = module.alpha.detach()
    scale = (alpha + 1e-9).reciprocal()

    def run(x: Tensor, _tape: _Tape, _last: bool) -> Tensor:
        y = (alpha * x).sin_()
        return y.mul_(y).mul_(scale).add_(x)

    return run


def _upsampling(module: nn.ConvTranspose1d) -> _Layer:
    """A kernel of two strides: the samples between two inputs depend on these two."""
    [stride], [padding], [extra] = module.stride, module.padding, module.output_padding

    def run(x: Tensor, tape: _Tape, last: bool) -> Tensor:
        x, keep = tape.joined(x, 1)
        count = x.shape[-1]
        if not last:
            keep(count - 1)
        y = functional.conv_transpose1d(x, module.weight, module.bias, stride)
        first = stride + padding if tape.begins else stride
        return y[..., first : (count + 1) * stride - padding + extra if last else count * stride]

    return run


def _residual(module: nn.Module) -> _Layer:
    chain = _chain(module.block)

    def run(x: Tensor, tape: _Tape, last: bool) -> Tensor:
        before, keep = tape.joined(x, 0)
        y = chain(x, tape, last)
        if not last:
            keep(y.shape[-1])
        return before[..., : y.shape[-1]] + y

    return run


def _chain(modules: Any) -> _Layer:
    layers = [_layer(module) for module in modules]

    def run(x: Tensor, tape: _Tape, last: bool) -> Tensor:
        for layer in layers:
            x = layer(x, tape, last)
        return x

    return run


def _layer(module: nn.Module) -> _Layer:
    if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
        with contextlib.suppress(ValueError):  # it has no weight norm
            nn.utils.remove_weight_norm(module)
        return _convolution(module) if isinstance(module, nn.Conv1d) else _upsampling(module)
    match type(module).__name__:
        case "DecoderBlock":
            return _chain(module.block)
        case "ResidualUnit":
            return _residual(module)
        case "Snake1d":
            return _activation(module)
    raise TypeError(f"the codec has a layer of an unknown kind: {type(module).__name__}")


class IncrementalDecoder:
    """The decoder of the server's audio tokenizer.

    Args:
        model: the tokenizer's model, whose quantizer is a residual one.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._decode = _chain(model.decoder_2.model)
        self._device = next(model.decoder_2.parameters()).device

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def decode(self, pieces: Sequence[Piece]) -> list[tuple[Any, State]]:
        """Return each piece's samples (int16), and the state for the next one, if there is one.

        Args:
            pieces: all of one kind.
        """
        codes = torch.stack([torch.from_numpy(piece.codes) for piece in pieces])
        codes = codes.to(self._device, non_blocking=True)
        tape = _Tape(_stacked([piece.state for piece in pieces if piece.state is not None]))
        latent = self._model.quantizer.decode(codes.permute(1, 0, 2)).transpose(1, 2)
        latent = self._model.fc_post2(latent).transpose(1, 2)
        sound = self._decode(latent, tape, pieces[0].last)[:, 0]
        samples = (sound.clamp_(-1.0, 1.0) * 32767).round_().to(torch.int16).cpu().numpy()
        new = [] if pieces[0].last else tape.new
        return [
            (row, [kept[index : index + 1] for kept in new]) for index, row in enumerate(samples)
        ]


def _stacked(states: list[State]) -> State | None:
    if len(states) < 2:
        return states[0] if states else None
    return [torch.cat(kept) for kept in zip(*states, strict=True)]
