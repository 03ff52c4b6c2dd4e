"""Networks of text, sound and time series as people build them, small, as plain PyTorch modules with random weights."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY = 100


class Bert(nn.Module):
    """Encoder with word, position and segment embeddings, whose mask every layer reads."""

    def __init__(self, width: int = 32, depth: int = 4, length: int = 64):
        super().__init__()
        self.words, self.segments = nn.Embedding(VOCABULARY, width), nn.Embedding(2, width)
        self.positions = nn.Embedding(length, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(EncoderLayer(width) for _ in range(depth))
        self.pooler = nn.Linear(width, width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.norm(self.words(input_ids) + self.segments(token_type_ids) + self.positions(places))
        bias = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -1e4
        for layer in self.layers:
            x = layer(x, bias)
        return x, torch.tanh(self.pooler(x[:, 0]))


class EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self._split(self.q(x)), self._split(self.k(x)), self._split(self.v(x))
        weights = torch.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5 + bias, -1)
        x = self.norms[0](x + self.out((weights @ v).transpose(1, 2).flatten(2)))
        return self.norms[1](x + self.mlp(x))


class Gpt(nn.Module):
    """Causal decoder with positions; scores of the next token at every place."""

    def __init__(self, width: int = 32, depth: int = 4, length: int = 64):
        super().__init__()
        self.words, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(length, width)
        self.layers = nn.ModuleList(EncoderLayer(width) for _ in range(depth))

    def forward(self, input_ids: Tensor) -> Tensor:
        length = input_ids.shape[1]
        x = self.words(input_ids) + self.positions(torch.arange(length, device=input_ids.device))
        bias = torch.full((length, length), -1e4, device=x.device).triu(1)
        for layer in self.layers:
            x = layer(x, bias)
        return x @ self.words.weight.T


class Llama(nn.Module):
    """Decoder step with rotary positions, RMS norm and gated layers; its state is the earlier keys and values."""

    def __init__(self, width: int = 32, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.words = nn.Embedding(VOCABULARY, width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.scale = nn.Parameter(torch.ones(width))
        self.register_buffer("frequency", 100.0 ** -torch.linspace(0, 1, width // heads // 2))

    def _norm(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale

    def _rotate(self, x: Tensor, position: Tensor) -> Tensor:
        angle = position[:, None, :, None].to(x.dtype) * self.frequency
        even, odd = x.chunk(2, -1)
        return torch.cat([even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], -1)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, past_key: Tensor, past_value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = self.words(input_ids)
        y = self._norm(x)
        q, k, v = (part(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        q, k = self._rotate(q, position_ids), self._rotate(k, position_ids)
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
        weights = torch.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5, -1)
        x = x + self.out((weights @ v).transpose(1, 2).flatten(2))
        y = self._norm(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return x @ self.words.weight.T, k, v


class Translator(nn.Module):
    """Encoder and decoder with cross attention."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width)
        self.body = nn.Transformer(width, 4, 2, 2, 64, batch_first=True)
        self.scores = nn.Linear(width, VOCABULARY)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.scores(self.body(self.words(source), self.words(target)))


class Recurrent(nn.Module):
    """Recurrent layers with their state as inputs and outputs, the batch on the state's second axis."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, width: int = 16):
        super().__init__()
        self.layers = kind(8, width, num_layers=2, batch_first=True)  # pyright: ignore[reportCallIssue]
        self.scores = nn.Linear(width, 5)
        self.has_cell = kind is nn.LSTM

    def forward(self, x: Tensor, h: Tensor, c: Tensor | None = None) -> tuple[Tensor, ...]:
        y, state = self.layers(x, (h, c) if self.has_cell else h)
        return (self.scores(y), *state) if self.has_cell else (self.scores(y), state)


def gru() -> nn.Module:
    return Recurrent(nn.GRU)


class Tagger(nn.Module):
    """Embedding and recurrent layers in both directions."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width)
        self.body = nn.LSTM(width, width, num_layers=2, bidirectional=True, batch_first=True)
        self.scores = nn.Linear(2 * width, 7)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.scores(self.body(self.words(input_ids))[0]).log_softmax(-1)


class SpeechEncoder(nn.Module):
    """Convolutions over samples of sound, then attention with convolutions beside it, as in wav2vec and Conformer."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(1, 16, 10, 5), nn.GELU(), nn.Conv1d(16, width, 8, 4), nn.GELU())
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.glue = nn.Sequential(
            nn.Conv1d(width, 2 * width, 1), nn.GLU(1), nn.Conv1d(width, width, 15, 1, 7, groups=width), nn.SiLU()
        )
        self.scores = nn.Linear(width, 30)

    def forward(self, sound: Tensor) -> Tensor:
        x = self.stem(sound.unsqueeze(1)).transpose(1, 2)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.glue(x.transpose(1, 2)).transpose(1, 2)
        return self.scores(x).log_softmax(-1)


class WaveNet(nn.Module):
    """Dilated causal convolutions with gates; every layer adds to one skip sum."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.stem = nn.Conv1d(1, width, 1)
        self.layers = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=2**i) for i in range(6))
        self.skips = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(6))
        self.scores = nn.Conv1d(width, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.stem(x), torch.zeros(())
        for i, (layer, skip) in enumerate(zip(self.layers, self.skips, strict=True)):
            a, b = layer(F.pad(x, (2**i, 0))).chunk(2, 1)
            y = a.tanh() * b.sigmoid()
            total = total + skip(y)
            x = x + y
        return self.scores(total.relu())


class Experts(nn.Module):
    """Mixture of experts: the two best of four for each sample."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.gate = nn.Linear(width, 4)
        self.experts = nn.Parameter(torch.randn(4, width, width) / width**0.5)
        self.out = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = self.gate(x).topk(2, -1)
        y = torch.einsum("bi,bkij->bkj", x, self.experts[chosen]).relu()
        return self.out((y * weight.softmax(-1).unsqueeze(-1)).sum(1))


class Recommender(nn.Module):
    """Dense and categorical features, embedding tables, and products of all pairs."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(50, width) for _ in range(5))
        self.dense = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, width))
        self.top = nn.Sequential(nn.Linear(width + 36, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())

    def forward(self, dense: Tensor, categories: Tensor) -> Tensor:
        x = self.dense(dense)
        rows = torch.stack([x, *(table(categories[:, i]) for i, table in enumerate(self.tables))], 1)
        return self.top(torch.cat([x, (rows @ rows.transpose(1, 2)).flatten(1)], 1))


class Branching(nn.Module):
    """One of two branches, as the values say (torch.cond becomes If)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.end = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        y = torch.cond(y.sum() > 8.0, lambda y: y * 2.0, lambda y: y - 1.0, (y,))
        return self.end(y)


class Scripted(nn.Module):
    """A loop whose length follows the input's (TorchScript becomes Loop)."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.size(0), 8)
        for i in range(x.size(1)):
            state = torch.tanh(self.cell(torch.cat([x[:, i], state], 1)))
        return self.out(state)
