"""A llama, or a hybrid as LFM2 is: RMSNorm, RoPE, grouped-query attention, short convolutions in some layers, SwiGLU, tied embeddings.

Any KV head can be made to stream.
"""

from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from documents import RECENT, SINK


@dataclass
class Config:
    n_vocab: int
    layers: str = 'aaaaaa'  # a: attention, c: a short convolution
    width: int = 256
    n_heads: int = 8
    n_kv_heads: int = 4
    head_size: int = 64
    n_ff: int = 704
    kernel: int = 3  # tokens that a short convolution sees
    rope_base: float = 500_000.0
    norm_eps: float = 1e-5
    context: int = 16_640

    def as_dict(self):
        return asdict(self)

    @property
    def architecture(self):
        """GGUF's name for it."""
        return 'lfm2' if 'c' in self.layers else 'llama'

    @property
    def attention_layers(self):
        return [i for i, kind in enumerate(self.layers) if kind == 'a']


# A hybrid's output matrix takes `width` values: n_heads * head_size is that.
SHAPES = {'llama': {}, 'hybrid': dict(layers='cacacaca', n_heads=4, n_ff=576)}
TOY_SHAPES = {
    'llama': dict(layers='aa', width=128, n_heads=4, n_kv_heads=2, n_ff=352),
    'hybrid': dict(layers='caca', width=128, n_heads=2, n_kv_heads=2, n_ff=352),
}


class Layer(nn.Module):
    """What layers of both kinds have. All work on [tokens, width]: shapes are the same at every length."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.attn_norm = nn.RMSNorm(config.width, config.norm_eps)
        self.ffn_norm = nn.RMSNorm(config.width, config.norm_eps)
        self.gate = nn.Linear(config.width, config.n_ff, bias=False)
        self.up = nn.Linear(config.width, config.n_ff, bias=False)
        self.down = nn.Linear(config.n_ff, config.width, bias=False)

    def feed_forward(self, x):
        h = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class AttentionLayer(Layer):
    """In two parts, before and after attention."""

    def __init__(self, config):
        super().__init__(config)
        q_width, kv_width = config.n_heads * config.head_size, config.n_kv_heads * config.head_size
        self.q = nn.Linear(config.width, q_width, bias=False)
        self.k = nn.Linear(config.width, kv_width, bias=False)
        self.v = nn.Linear(config.width, kv_width, bias=False)
        self.o = nn.Linear(q_width, config.width, bias=False)
        hybrid = config.architecture == 'lfm2'
        self.rotate = rotate_halves if hybrid else rotate_pairs
        self.q_norm, self.k_norm = (nn.RMSNorm(config.head_size, config.norm_eps) if hybrid else nn.Identity() for _ in range(2))

    def before(self, x, places):
        """Queries, keys and values [tokens, heads, head size]; keys and values once for each query head."""
        config = self.config
        h = self.attn_norm(x)
        q = self.rotate(self.q_norm(self.q(h).view(-1, config.n_heads, config.head_size)), places.cos, places.sin)
        k = self.rotate(self.k_norm(self.k(h).view(-1, config.n_kv_heads, config.head_size)), places.cos, places.sin)
        v = self.v(h).view(-1, config.n_kv_heads, config.head_size)
        group = config.n_heads // config.n_kv_heads
        return q, k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)

    def after(self, x, attended):
        return self.feed_forward(x + self.o(attended))


class ConvolutionLayer(Layer):
    """A causal convolution a channel over the last few tokens, gated before and after: it carries nothing further."""

    def __init__(self, config):
        super().__init__(config)
        self.in_proj = nn.Linear(config.width, 3 * config.width, bias=False)
        self.kernel = nn.Parameter(torch.empty(config.width, config.kernel))  # the last column is for the token itself
        self.out_proj = nn.Linear(config.width, config.width, bias=False)

    def whole(self, x, places):
        before, after, value = self.in_proj(self.attn_norm(x)).chunk(3, -1)
        value = before * value
        mixed = self.kernel[:, -1] * value
        for back, has in enumerate(places.earlier, 1):
            mixed = mixed + self.kernel[:, -1 - back] * torch.where(has, F.pad(value, (0, 0, back, 0))[:-back], 0)
        return self.feed_forward(x + self.out_proj(after * mixed))


class Places(NamedTuple):
    """Where tokens stand in their texts."""

    cos: torch.Tensor  # [tokens, 1, head size / 2]
    sin: torch.Tensor
    earlier: tuple[torch.Tensor, ...]  # bool [tokens, 1] each: is there a token 1, 2, ... before it


def rotate_pairs(x, cos, sin):
    """RoPE on neighbouring pairs, as GGUF's llama has it (ggml's NORM type): no permutation on export."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


def rotate_halves(x, cos, sin):
    """RoPE on a head's first and second half, as GGUF's lfm2 has it (ggml's NEOX type)."""
    a, b = x.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1).to(x.dtype)


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        # A multiple of 64 rows, for the matrix products; those past the vocabulary are left out on export.
        self.embed = nn.Embedding(-(-config.n_vocab // 64) * 64, config.width)
        self.blocks = nn.ModuleList((AttentionLayer if kind == 'a' else ConvolutionLayer)(config) for kind in config.layers)
        self.norm = nn.RMSNorm(config.width, config.norm_eps)
        for name, weight in self.named_parameters():
            if name.endswith('.kernel'):
                nn.init.uniform_(weight, -(config.kernel**-0.5), config.kernel**-0.5)
            elif weight.dim() == 2:
                residual = name.endswith(('.o.weight', '.out_proj.weight', '.down.weight'))
                # A convolution's output is a product of three of its inputs': they begin at the size of the norm's.
                std = config.width**-0.5 if name.endswith('.in_proj.weight') else 0.02
                nn.init.normal_(weight, std=std / (2 * len(config.layers)) ** 0.5 if residual else std)

    def compile_layers(self):
        for block in self.blocks:
            for part in ('before', 'after', 'whole'):
                if hasattr(block, part):
                    setattr(block, part, torch.compile(getattr(block, part)))

    def places(self, n, rows, device):
        config = self.config
        position = torch.arange(n, device=device)
        frequencies = config.rope_base ** (-torch.arange(0, config.head_size, 2, device=device, dtype=torch.float64) / config.head_size)
        angles = torch.outer(position.double(), frequencies).repeat(rows, 1)[:, None]
        earlier = (position.repeat(rows)[:, None] >= back for back in range(1, config.kernel))
        return Places(angles.cos().float(), angles.sin().float(), tuple(earlier))

    def forward(self, tokens, streaming=None, places=None):
        """tokens: [rows, n]; streaming: bool [attention layers, KV heads], or None. Returns hidden states, normalised: [rows * n, width]."""
        rows, n = tokens.shape
        places = places or self.places(n, rows, tokens.device)
        mask = None if streaming is None or not streaming.any() else streaming_mask(n, tokens.device)
        x = self.embed(tokens).view(rows * n, -1)
        kinds = iter(() if mask is None else streaming)
        for block in self.blocks:
            if isinstance(block, ConvolutionLayer):
                x = block.whole(x, places)
                continue
            # [tokens, heads, size] -> [rows, heads, n, size]
            q, k, v = (part.view(rows, n, -1, part.shape[-1]).transpose(1, 2) for part in block.before(x, places))
            attended = attend(q, k, v, next(kinds, None), mask)
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
