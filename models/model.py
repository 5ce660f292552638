"""A llama: RMSNorm, RoPE, grouped-query attention, SwiGLU, tied embeddings. Any KV head can be made to stream."""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from documents import RECENT, SINK


@dataclass
class Config:
    n_vocab: int
    n_layers: int = 6
    width: int = 256
    n_heads: int = 8
    n_kv_heads: int = 4
    head_size: int = 64
    n_ff: int = 704
    rope_base: float = 500_000.0
    norm_eps: float = 1e-5
    context: int = 16_640

    def as_dict(self):
        return asdict(self)


class Block(nn.Module):
    """One layer, in the two parts before and after attention, both on [tokens, width]: their shapes are the same at every length."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        q_width, kv_width = config.n_heads * config.head_size, config.n_kv_heads * config.head_size
        self.attn_norm = nn.RMSNorm(config.width, config.norm_eps)
        self.q = nn.Linear(config.width, q_width, bias=False)
        self.k = nn.Linear(config.width, kv_width, bias=False)
        self.v = nn.Linear(config.width, kv_width, bias=False)
        self.o = nn.Linear(q_width, config.width, bias=False)
        self.ffn_norm = nn.RMSNorm(config.width, config.norm_eps)
        self.gate = nn.Linear(config.width, config.n_ff, bias=False)
        self.up = nn.Linear(config.width, config.n_ff, bias=False)
        self.down = nn.Linear(config.n_ff, config.width, bias=False)

    def before(self, x, cos, sin):
        """Queries, keys and values [tokens, heads, head size]; keys and values once for each query head."""
        config = self.config
        h = self.attn_norm(x)
        q = rotate(self.q(h).view(-1, config.n_heads, config.head_size), cos, sin)
        k = rotate(self.k(h).view(-1, config.n_kv_heads, config.head_size), cos, sin)
        v = self.v(h).view(-1, config.n_kv_heads, config.head_size)
        group = config.n_heads // config.n_kv_heads
        return q, k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)

    def after(self, x, attended):
        x = x + self.o(attended)
        h = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def rotate(x, cos, sin):
    """RoPE on neighbouring pairs, as GGUF's llama has it (ggml's NORM type): no permutation on export. cos, sin: [tokens, 1, head size / 2]"""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        # A multiple of 64 rows, for the matrix products; those past the vocabulary are left out on export.
        self.embed = nn.Embedding(-(-config.n_vocab // 64) * 64, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.RMSNorm(config.width, config.norm_eps)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                residual = name.endswith(('.o.weight', '.down.weight'))
                nn.init.normal_(weight, std=0.02 / (2 * config.n_layers) ** 0.5 if residual else 0.02)

    def rope(self, n, rows, device):
        frequencies = self.config.rope_base ** (-torch.arange(0, self.config.head_size, 2, device=device, dtype=torch.float64) / self.config.head_size)
        angles = torch.outer(torch.arange(n, device=device, dtype=torch.float64), frequencies).repeat(rows, 1)[:, None]
        return angles.cos().float(), angles.sin().float()

    def forward(self, tokens, streaming=None, rope=None):
        """tokens: [rows, n]; streaming: bool [layers, KV heads], or None. Returns hidden states, normalised: [rows * n, width]."""
        rows, n = tokens.shape
        cos, sin = rope or self.rope(n, rows, tokens.device)
        mask = None if streaming is None or not streaming.any() else streaming_mask(n, tokens.device)
        x = self.embed(tokens).view(rows * n, -1)
        for i, block in enumerate(self.blocks):
            # [tokens, heads, size] -> [rows, heads, n, size]
            q, k, v = (part.view(rows, n, -1, part.shape[-1]).transpose(1, 2) for part in block.before(x, cos, sin))
            attended = attend(q, k, v, None if mask is None else streaming[i], mask)
            x = block.after(x, attended.transpose(1, 2).reshape(rows * n, -1))
        return self.norm(x)

    def logits(self, hidden):
        return F.linear(hidden, self.embed.weight)


def attend(q, k, v, streaming, mask):
    """streaming: bool [KV heads] or None; mask: from streaming_mask."""
    if streaming is None or not streaming.any():
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    of_query_head = streaming.repeat_interleave(q.shape[1] // len(streaming))
    out = torch.empty_like(q)
    for heads, attention in ((~of_query_head, lambda *a: F.scaled_dot_product_attention(*a, is_causal=True)), (of_query_head, lambda *a: attend_window(*a, mask))):
        if heads.any():
            out[:, heads] = attention(*(part[:, heads].contiguous() for part in (q, k, v)))
    return out


# A streaming head's queries are taken in blocks of RECENT: their keys are the sinks, the block before and the block itself.


def streaming_mask(n, device):
    """Visible keys, bool [blocks, RECENT, SINK + 2 * RECENT]: key j <= p where j < SINK or j >= p - RECENT, for a query at p."""
    p = torch.arange(-(-n // RECENT) * RECENT, device=device).view(-1, RECENT, 1)
    near = p[:, :1] - RECENT + torch.arange(2 * RECENT, device=device)
    sinks = torch.arange(SINK, device=device).expand(len(p), 1, -1)
    near_visible = (near >= 0) & (near <= p) & ((near >= p - RECENT) | (near < SINK))
    return torch.cat(((sinks < near[:, :, :1]).expand(-1, RECENT, -1), near_visible), -1)


def attend_window(q, k, v, mask):
    rows, heads, n, size = q.shape
    blocks = mask.shape[0]

    def in_blocks(x):
        return F.pad(x, (0, 0, 0, blocks * RECENT - n)).view(rows * heads, blocks, RECENT, size)

    def keys(x):
        own = in_blocks(x)
        before = F.pad(own, (0, 0, 0, 0, 1, 0))[:, :-1]
        sinks = F.pad(x, (0, 0, 0, max(0, SINK - n)))[:, :, :SINK].reshape(rows * heads, 1, SINK, size)
        return torch.cat((sinks.expand(-1, blocks, -1, -1), before, own), 2)

    out = F.scaled_dot_product_attention(in_blocks(q), keys(k), keys(v), attn_mask=mask)
    return out.reshape(rows, heads, blocks * RECENT, size)[:, :, :n]
