"""Networks of pictures as people build them, narrow but of full depth, as plain PyTorch modules with random weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(channels: int, out: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, out, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(out), nn.ReLU()
    )


class DenseNet(nn.Module):
    """DenseNet-121's blocks of 6, 12, 24 and 16 layers, each reading all earlier ones of its block."""

    def __init__(self, growth: int = 8, blocks: Sequence[int] = (6, 12, 24, 16)):
        super().__init__()
        channels = 2 * growth
        self.stem = nn.Sequential(conv(3, channels, 7, 2), nn.MaxPool2d(3, 2, 1))
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for count in blocks:
            layers = [self._layer(channels + i * growth, growth) for i in range(count)]
            self.blocks.append(nn.ModuleList(layers))
            channels += count * growth
            transition = nn.Sequential(
                nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1), nn.AvgPool2d(2)
            )
            self.transitions.append(transition)
            channels //= 2
        self.classes = nn.Linear(channels, 10)

    @staticmethod
    def _layer(channels: int, growth: int) -> nn.Sequential:
        norm = nn.BatchNorm2d(channels)
        return nn.Sequential(norm, nn.ReLU(), conv(channels, 4 * growth, 1), nn.Conv2d(4 * growth, growth, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, transition in zip(self.blocks, self.transitions, strict=True):
            assert isinstance(block, nn.ModuleList)
            for layer in block:
                x = torch.cat([x, layer(x)], 1)
            x = transition(x)
        return self.classes(x.mean((2, 3)))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, gate: type[nn.Module]):
        super().__init__()
        inner = max(channels // 4, 4)
        self.gate = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.ReLU(), nn.Conv2d(inner, channels, 1), gate())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(F.adaptive_avg_pool2d(x, 1))


class Bottleneck(nn.Module):
    """Inverted bottleneck with squeeze and excitation, as in MobileNetV3 and EfficientNet."""

    def __init__(self, channels: int, out: int, stride: int, act: type[nn.Module], gate: type[nn.Module]):
        super().__init__()
        wide = 4 * channels
        self.body = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            act(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            act(),
            SqueezeExcite(wide, gate),
            nn.Conv2d(wide, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.skips = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skips else self.body(x)


def _mobile(act: type[nn.Module], gate: type[nn.Module]) -> nn.Sequential:
    plan = [(8, 8, 1), (8, 12, 2), (12, 12, 1), (12, 16, 2), (16, 16, 1), (16, 24, 2), (24, 24, 1)]
    body = [Bottleneck(channels, out, stride, act, gate) for channels, out, stride in plan]
    head = [nn.Conv2d(24, 64, 1), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), act(), *body, *head)


def mobilenet_v3() -> nn.Module:
    return _mobile(nn.Hardswish, nn.Hardsigmoid)


def efficientnet() -> nn.Module:
    return _mobile(nn.SiLU, nn.Sigmoid)


class UNet(nn.Module):
    """Three levels, each of which hands its features across to the way up."""

    def __init__(self, transposed: bool = True):
        super().__init__()
        widths = (8, 16, 32)
        self.down = nn.ModuleList(
            nn.Sequential(conv(a, b), conv(b, b)) for a, b in zip((3, *widths), widths, strict=False)
        )
        self.bottom = conv(32, 64)
        ups = zip((64, 32, 16), (32, 16, 8), strict=True)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 2, 2)
            if transposed
            else nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(a, b, 1))
            for a, b in ups
        )
        self.merge = nn.ModuleList(conv(2 * width, width) for width in (32, 16, 8))
        self.classes = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for level in self.down:
            kept.append(level(x))
            x = F.max_pool2d(kept[-1], 2)
        x = self.bottom(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([up(x), kept.pop()], 1))
        return self.classes(x)


def unet_bilinear() -> nn.Module:
    return UNet(transposed=False)


class ViT(nn.Module):
    """Vision transformer with a class token."""

    def __init__(self, width: int = 32, depth: int = 4, size: int = 32):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, (size // 8) ** 2 + 1, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.classes = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.classes(self.encoder(x)[:, 0])


class WindowAttention(nn.Module):
    """Attention in shifted windows, as in Swin: rolls, reshapes of six axes, a mask made of constants."""

    def __init__(self, width: int = 16, window: int = 4):
        super().__init__()
        self.window = window
        self.stem = nn.Conv2d(3, width, 4, 4)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm, self.classes = nn.LayerNorm(width), nn.Linear(width, 10)

    def _attend(self, x: Tensor, shift: int) -> Tensor:
        b, h, w, c = x.shape
        k = self.window
        x = torch.roll(x, (-shift, -shift), (1, 2))
        tiles = x.view(b, h // k, k, w // k, k, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, k * k, c)
        q, key, value = self.qkv(tiles).chunk(3, -1)
        tiles = self.out(torch.softmax(q @ key.transpose(1, 2) / c**0.5, -1) @ value)
        x = tiles.view(b, h // k, w // k, k, k, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return torch.roll(x, (shift, shift), (1, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        for shift in (0, 2):
            x = x + self._attend(self.norm(x), shift)
        return self.classes(x.mean((1, 2)))


class ConvNeXt(nn.Module):
    def __init__(self, width: int = 16):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, 4)
        self.depthwise = nn.ModuleList(nn.Conv2d(width, width, 7, 1, 3, groups=width) for _ in range(3))
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(3)
        )
        self.classes = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for depthwise, norm, mlp in zip(self.depthwise, self.norm, self.mlp, strict=True):
            y = norm(depthwise(x).permute(0, 2, 3, 1))
            x = x + mlp(y).permute(0, 3, 1, 2)
        return self.classes(x.mean((2, 3)))


class FeaturePyramid(nn.Module):
    """Backbone and pyramid of a detector; boxes and class scores of all anchors, before any suppression."""

    def __init__(self, classes: int = 4):
        super().__init__()
        self.stages = nn.ModuleList([conv(3, 8, 3, 2), conv(8, 16, 3, 2), conv(16, 32, 3, 2), conv(32, 32, 3, 2)])
        self.lateral = nn.ModuleList([nn.Conv2d(channels, 16, 1) for channels in (16, 32, 32)])
        self.boxes, self.scores = nn.Conv2d(16, 4, 3, 1, 1), nn.Conv2d(16, classes, 3, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stages[0](x)
        features = []
        for stage, lateral in zip(self.stages[1:], self.lateral, strict=True):
            x = stage(x)
            features.append(lateral(x))
        top, levels = features[-1], [features[-1]]
        for feature in reversed(features[:-1]):
            top = feature + F.interpolate(top, scale_factor=2.0, mode="nearest")
            levels.append(top)
        boxes = torch.cat([self.boxes(level).flatten(2) for level in levels], 2).transpose(1, 2)
        scores = torch.cat([self.scores(level).flatten(2) for level in levels], 2)
        centre, size = boxes[..., :2].sigmoid(), boxes[..., 2:].exp().clamp(max=1.0)
        return torch.cat([centre - size / 2, centre + size / 2], -1), scores.sigmoid()


class SuperResolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 5, 1, 2), nn.Tanh(), nn.Conv2d(16, 12, 3, 1, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + F.interpolate(x, scale_factor=2.0, mode="bicubic", align_corners=False)


class StyleTransfer(nn.Module):
    """Reflection padding and instance norm."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(4),
            nn.Conv2d(3, 8, 9),
            nn.InstanceNorm2d(8, affine=True),
            nn.PReLU(),
            nn.Conv2d(8, 16, 3, 2, 1),
            nn.GroupNorm(4, 16),
            nn.ELU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(16, 3, 9, 1, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).tanh()


class Siamese(nn.Module):
    """Two pictures through one trunk, compared."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(conv(3, 8, 3, 2), conv(8, 16, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.same = nn.Linear(16, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.same((self.trunk(left) - self.trunk(right)).abs())


class Warp(nn.Module):
    """Stereo matching: one picture is sampled where the other one's features say."""

    def __init__(self) -> None:
        super().__init__()
        self.flow = nn.Sequential(conv(6, 8), nn.Conv2d(8, 2, 3, 1, 1), nn.Tanh())

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        flow = self.flow(torch.cat([left, right], 1)).permute(0, 2, 3, 1)
        return F.grid_sample(right, flow, align_corners=False), flow


class MultiTask(nn.Module):
    """Four outputs of unlike kind from one trunk, one of them integers."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(conv(3, 8, 3, 2), conv(8, 16, 3, 2), conv(16, 16))
        self.mask, self.depth, self.classes = nn.Conv2d(16, 2, 1), nn.Conv2d(16, 1, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = self.trunk(x)
        scores = self.classes(x.mean((2, 3)))
        return self.mask(x), F.softplus(self.depth(x)), scores, scores.argmax(1)


class PointCloud(nn.Module):
    """PointNet: shared layers over points, a maximum over all, and a product with a predicted matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Sequential(nn.Conv1d(3, 16, 1), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten())
        self.matrix = nn.Linear(16, 9)
        self.body = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 1))
        self.classes = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.matrix(self.turn(x)).view(-1, 3, 3) + torch.eye(3)
        return self.classes(self.body(matrix @ x).amax(2))


class Video(nn.Module):
    """Convolutions in space and time."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv3d(3, 8, 3, (1, 2, 2), 1), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(8, 8, 3))
        self.classes = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.body(x).mean((2, 3, 4)))
