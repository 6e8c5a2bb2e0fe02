"""Networks that map images to images, and a vision transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruning_zoo.convolutional import CLASSES, conv_bn


class UNet(nn.Module):
    """Ronneberger et al., 2015: two levels down, two up by transposed convolutions, skips concatenated."""

    def __init__(self) -> None:
        super().__init__()

        def twice(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(conv_bn(inputs, outputs), nn.ReLU(), conv_bn(outputs, outputs), nn.ReLU())

        self.down = nn.ModuleList([twice(3, 16), twice(16, 32)])
        self.bottom = twice(32, 64)
        self.up = nn.ModuleList([nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)])
        self.join = nn.ModuleList([twice(64, 32), twice(32, 16)])
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level in self.down:
            x = level(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.bottom(x)
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), skips.pop()], 1))
        return self.head(x)


class Stylised(nn.Module):
    """A fast style transfer's parts (Johnson et al., 2016): instance normalisation, PReLU, reflection, Resize."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(3, 24, 3), nn.InstanceNorm2d(24, affine=True), nn.PReLU(24),
            nn.Conv2d(24, 48, 3, 2, 1), nn.InstanceNorm2d(48, affine=True), nn.PReLU(48),
        )  # fmt: skip
        self.inner = nn.Sequential(
            nn.Conv2d(48, 48, 3, padding=1), nn.InstanceNorm2d(48), nn.PReLU(),
            nn.Conv2d(48, 48, 3, padding=1), nn.InstanceNorm2d(48, affine=True),
        )  # fmt: skip
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(48, 24, 3, padding=1), nn.PReLU(24),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), nn.Conv2d(24, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return torch.sigmoid(self.up(x + self.inner(x)))


class Attention(nn.Module):
    """Multi-head self-attention, queries, keys and values from one fused layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        weights = (query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        return self.project((weights @ value).transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """A pre-normalised transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        return x + self.mlp(self.after(x))


class ViT(nn.Module):
    """Dosovitskiy et al., 2021: patches, a class token, learned positions, two blocks of four heads."""

    def __init__(self, width: int = 64, heads: int = 4, patch: int = 8) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 1 + (32 // patch) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(2)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])
