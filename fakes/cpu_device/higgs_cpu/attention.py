"""Attention over V1's paged KV cache, in plain PyTorch.

Keys and values are written to and read from the cache's blocks as the scheduler has laid them out:
a request with a cached prefix, or with a prompt in several chunks, is processed as on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from vllm.attention.backends.abstract import AttentionImpl
from vllm.v1.attention.backends.flash_attn import FlashAttentionBackend


class CpuAttentionBackend(FlashAttentionBackend):
    """FlashAttention's layout of the cache and metadata, with another computation."""

    @staticmethod
    def get_name() -> str:
        return "HIGGS_CPU"

    @staticmethod
    def get_impl_cls() -> type[CpuAttention]:
        return CpuAttention

    @staticmethod
    def use_cascade_attention(*args: Any, **kwargs: Any) -> bool:
        return False


class CpuAttention(AttentionImpl):
    """Causal attention with grouped queries.

    Args:
        num_heads: query heads.
        head_size: numbers in a head.
        scale: of the scores.
        num_kv_heads: key and value heads; each serves `num_heads / num_kv_heads` query heads.
    """

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self.heads, self.size, self.scale = num_heads, head_size, scale
        self.kv_heads = num_kv_heads or num_heads

    def forward(
        self,
        layer: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: Any,
        output: torch.Tensor,
    ) -> torch.Tensor:
        """Write the new keys and values to the cache and attend to each request's own.

        Args:
            layer: the model's layer; not used.
            query: `[tokens, heads * size]`, the requests one after the other.
            key: `[tokens, kv_heads * size]`.
            value: as key.
            kv_cache: `[2, blocks, block_size, kv_heads, size]`: keys, then values.
            attn_metadata: which tokens belong to which request, and where its blocks are; none
                when the engine only measures memory.
            output: takes the result, in the shape of query.
        """
        if attn_metadata is None:
            return output.zero_()
        keys, values = (part.reshape(-1, self.kv_heads, self.size) for part in kv_cache)
        block_size = kv_cache.shape[2]
        count = attn_metadata.num_actual_tokens
        slots = attn_metadata.slot_mapping[:count]
        keys[slots] = key[:count].view(count, self.kv_heads, self.size)
        values[slots] = value[:count].view(count, self.kv_heads, self.size)
        queries = query.view(-1, self.heads, self.size)
        results = output.view(-1, self.heads, self.size)
        starts = attn_metadata.query_start_loc.tolist()
        for row, length in enumerate(attn_metadata.seq_lens.tolist()):
            first, last = starts[row], starts[row + 1]
            if first == last:
                continue
            positions = torch.arange(length)
            blocks = attn_metadata.block_table[row, positions // block_size].long()
            slots = blocks * block_size + positions % block_size
            asking = positions[length - (last - first) :, None]
            results[first:last] = scaled_dot_product_attention(
                queries[first:last].transpose(0, 1),
                keys[slots].transpose(0, 1),
                values[slots].transpose(0, 1),
                attn_mask=positions <= asking,
                scale=self.scale,
                enable_gqa=True,
            ).transpose(0, 1)
        return output
