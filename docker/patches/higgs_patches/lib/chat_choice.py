"""One answer of a chat completion: its text and its audio, from the engine's outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from higgs_patches.lib.audio.decoding import AudioDecoder, NoAudioError
from higgs_patches.lib.special_tokens import WithoutTokens


class Choice:
    """One of the answers to a request: its text, and its audio as PCM (16 bit, mono)."""

    def __init__(
        self,
        index: int,
        decoder: Callable[[], AudioDecoder],
        bos_id: int,
        special_tokens: tuple[str, ...],
    ) -> None:
        """Begin an answer.

        Args:
            index: its number.
            decoder: makes a decoder for an utterance.
            bos_id: the code of which the first row of an utterance consists.
            special_tokens: tokens that are not text for the client, such as those of audio frames.
        """
        self.index = index
        self.tokens = 0
        self.spoke = False
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        self._new_decoder = decoder
        self._bos_id = bos_id
        self._decoder: AudioDecoder | None = None
        self._text = WithoutTokens(special_tokens)

    async def take(self, output: Any) -> tuple[str, bytes]:
        """What is new in the engine's output: text, and sound."""
        self.tokens += len(output.token_ids)
        pcm = b""
        rows: list[Any] = []
        for row in output.mm_token_ids or ():
            if self._decoder and all(code == self._bos_id for code in row):  # a new utterance
                pcm += await self._decoder.feed(rows) + await self._end()
                rows = []
            self._decoder = self._decoder or self._new_decoder()
            rows.append(row)
        if rows and self._decoder:
            pcm += await self._decoder.feed(rows)
        if output.finish_reason or not rows:
            pcm += await self._end()
        self.finish_reason, self.stop_reason = output.finish_reason, output.stop_reason
        self.spoke = self.spoke or bool(pcm)
        return self._text.add(output.text, last=bool(output.finish_reason)), pcm

    async def _end(self) -> bytes:
        decoder, self._decoder = self._decoder, None
        try:
            return await decoder.finish() if decoder else b""
        except NoAudioError:
            return b""  # no frame of it was complete
