"""The perceptual networks in plain PyTorch, laid out and named as their authors' modules are."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

ALEX = [(64, 11, 4, 2), None, (192, 5, 1, 2), None, (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1)]
VGG = [64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512]
# First and last layer of every stage, by their numbers in torchvision's `features`.
ALEX_CUTS = ((0, 2), (2, 5), (5, 8), (8, 10), (10, 12))
VGG_CUTS = ((0, 4), (4, 9), (9, 16), (16, 23), (23, 30))


def alex_layers():
    layers, channels = [], 3
    for entry in ALEX:
        if entry is None:
            layers.append(nn.MaxPool2d(3, 2))
            continue
        width, size, stride, padding = entry
        layers += [nn.Conv2d(channels, width, size, stride, padding), nn.ReLU()]
        channels = width
    return layers


def vgg_layers(pool):
    layers, channels = [], 3
    for width in VGG:
        if width is None:
            layers.append(pool(channels))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        channels = width
    return layers


def stages(module, prefix, layers, cuts):
    found = []
    for number, (start, stop) in enumerate(cuts, 1):
        stage = nn.Sequential()
        for index in range(start, stop):
            stage.add_module(str(index), layers[index])
        module.add_module(f"{prefix}{number}", stage)
        found.append(stage)
    return found


class Lpips(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.net = nn.Module()
        layers = alex_layers() if network == "alex" else vgg_layers(lambda _: nn.MaxPool2d(2, 2))
        cuts = ALEX_CUTS if network == "alex" else VGG_CUTS
        self.stages = [*stages(self.net, "slice", layers, cuts)]
        for number, stage in enumerate(self.stages):
            width = [layer for layer in stage if isinstance(layer, nn.Conv2d)][-1].out_channels
            lin = nn.Module()
            lin.model = nn.Sequential(nn.Dropout(), nn.Conv2d(width, 1, 1, bias=False))
            self.add_module(f"lin{number}", lin)
        self.scaling_layer = nn.Module()
        for name, value in (("shift", [-0.030, -0.088, -0.188]), ("scale", [0.458, 0.448, 0.450])):
            self.scaling_layer.register_buffer(name, torch.tensor(value)[None, :, None, None])

    def forward(self, a, b):
        total = 0.0
        a, b = ((2 * x - 1 - self.scaling_layer.shift) / self.scaling_layer.scale for x in (a, b))
        for number, stage in enumerate(self.stages):
            a, b = stage(a), stage(b)
            unit_a, unit_b = (x / (x.norm(dim=1, keepdim=True) + 1e-10) for x in (a, b))
            lin = getattr(self, f"lin{number}").model.eval()
            total = total + lin((unit_a - unit_b) ** 2).mean(dim=(1, 2, 3))
        return total


class HannPool(nn.Module):
    def __init__(self, channels):
        super().__init__()
        taps = torch.tensor(np.hanning(5)[1:-1], dtype=torch.float32)
        window = torch.outer(taps, taps)
        self.register_buffer("filter", (window / window.sum()).repeat(channels, 1, 1, 1))

    def forward(self, x):
        mean = F.conv2d(x**2, self.filter, stride=2, padding=1, groups=x.shape[1])
        return (mean + 1e-12).sqrt()


class Dists(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = [*stages(self, "stage", vgg_layers(HannPool), VGG_CUTS)]
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[None, :, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[None, :, None, None])
        self.alpha = nn.Parameter(torch.rand(1, 1475, 1, 1))
        self.beta = nn.Parameter(torch.rand(1, 1475, 1, 1))

    def maps(self, x):
        found = [x]
        x = (x - self.mean) / self.std
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return [x.double() for x in found]

    def forward(self, a, b):
        same, start = 0.0, 0
        for x, y in zip(self.maps(a), self.maps(b), strict=True):
            stop = start + x.shape[1]
            alpha, beta = self.alpha[:, start:stop, 0, 0], self.beta[:, start:stop, 0, 0]
            start = stop
            x, y = x.flatten(2), y.flatten(2)
            mx, my = x.mean(-1), y.mean(-1)
            cov = (x * y).mean(-1) - mx * my
            texture = (2 * mx * my + 1e-6) / (mx**2 + my**2 + 1e-6)
            variances = x.var(-1, unbiased=False) + y.var(-1, unbiased=False)
            structure = (2 * cov + 1e-6) / (variances + 1e-6)
            same = same + (alpha * texture + beta * structure).sum(1)
        return 1 - same / (self.alpha.sum() + self.beta.sum())


class StdConv(nn.Conv2d):
    def forward(self, x):
        (size, _), (stride, _) = self.kernel_size, self.stride
        x = same_padding(x, size, stride)
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        deviation = self.weight.std(dim=(1, 2, 3), keepdim=True) + 1e-5
        return F.conv2d(x, (self.weight - mean) / deviation, None, self.stride)


def same_padding(x, size, stride):
    """TensorFlow's SAME: the odd pixel at the end."""
    pads = []
    for side in reversed(x.shape[2:]):
        missing = max((-(-side // stride) - 1) * stride + size - side, 0)
        pads += [missing // 2, missing - missing // 2]
    return F.pad(x, pads)


class Musiq(nn.Module):
    """With masks and padding as in the authors' code, which ours leaves out."""

    def __init__(self, width, hidden, depth, num_scores):
        super().__init__()
        self.conv_root, self.gn_root = std_conv(3, 64, 7, 2), nn.GroupNorm(32, 64, eps=1e-6)
        block = self.block1 = nn.Module()
        for name, ins, outs, size in (("1", 64, 64, 1), ("2", 64, 64, 3), ("3", 64, 256, 1)):
            block.add_module(f"conv{name}", std_conv(ins, outs, size, 1))
            block.add_module(f"gn{name}", nn.GroupNorm(32, outs, eps=1e-4))
        block.conv_proj, block.gn_proj = std_conv(64, 256, 1, 1), nn.GroupNorm(32, 256, eps=1e-4)
        self.embedding = nn.Linear(256 * 64, width)
        encoder = self.transformer_encoder = nn.Module()
        encoder.posembed_input, encoder.scaleembed_input = nn.Module(), nn.Module()
        encoder.posembed_input.position_emb = nn.Parameter(torch.randn(1, 100, width))
        encoder.scaleembed_input.scale_emb = nn.Parameter(torch.randn(3, width))
        encoder.cls = nn.Parameter(torch.randn(1, 1, width))
        encoder.encoder_norm = nn.LayerNorm(width, eps=1e-6)
        encoder.transformer = nn.ModuleDict()
        for index in range(depth):
            layer = nn.Module()
            layer.norm1, layer.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
            layer.attention = nn.Module()
            for name in ("query", "key", "value", "out"):
                layer.attention.add_module(name, nn.Linear(width, width))
            layer.mlp = nn.Module()
            layer.mlp.fc1, layer.mlp.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
            encoder.transformer[f"encoderblock_{index}"] = layer
        last = nn.Linear(width, num_scores)
        self.head = last if num_scores == 1 else nn.Sequential(last, nn.Softmax(dim=-1))

    def sequence(self, image):
        """Patches, places, scales and masks of one picture [1, 3, h, w] in [-1, 1]."""
        parts = []
        for scale, longer in enumerate((224, 384, None)):
            x, most = image, None
            if longer is not None:
                ratio = longer / max(image.shape[2:])
                size = [round(side * ratio) for side in image.shape[2:]]
                x, most = F.interpolate(image, size, mode="bicubic"), (longer // 32) ** 2
            patches = F.unfold(same_padding(x, 32, 32), 32, stride=32)[0].T
            down, across = (-(-side // 32) for side in x.shape[2:])
            grid = torch.arange(10.0)[None, None]
            rows = F.interpolate(grid, down, mode="nearest")[0, 0]
            columns = F.interpolate(grid, across, mode="nearest")[0, 0]
            places = (rows[:, None] * 10 + columns[None]).flatten()
            padding = 0 if most is None else most - len(patches)
            mask = torch.cat([torch.ones(len(patches)), torch.zeros(padding)])
            patches = F.pad(patches, (0, 0, 0, padding))
            parts.append((patches, F.pad(places, (0, padding)), torch.full_like(mask, scale), mask))
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    def forward(self, image):
        patches, places, scales, mask = self.sequence(2 * image - 1)
        x = self.gn_root(self.conv_root(patches.reshape(-1, 3, 32, 32))).relu()
        x = F.max_pool2d(same_padding(x, 3, 2), 3, 2)
        block = self.block1
        y = block.gn1(block.conv1(x)).relu()
        y = block.gn2(block.conv2(y)).relu()
        x = (block.gn3(block.conv3(y)) + block.gn_proj(block.conv_proj(x))).relu()
        x = self.embedding(x.permute(0, 2, 3, 1).flatten(1))
        encoder = self.transformer_encoder
        x = x + encoder.posembed_input.position_emb[0][places.long()]
        x = (x + encoder.scaleembed_input.scale_emb[scales.long()])[None]
        x = torch.cat([encoder.cls, x], dim=1)
        mask = torch.cat([torch.ones(1), mask])
        both = mask[:, None] * mask[None]
        for layer in encoder.transformer.values():
            y = layer.norm1(x)
            heads = (
                getattr(layer.attention, name)(y)[0].unflatten(-1, (-1, 64)).transpose(0, 1)
                for name in ("query", "key", "value")
            )
            query, key, value = heads
            logits = (query @ key.transpose(1, 2) / 8).masked_fill(both == 0, -1e3)
            mixed = (logits.softmax(-1) @ value).transpose(0, 1).flatten(1)[None]
            x = x + layer.attention.out(mixed)
            x = x + layer.mlp.fc2(F.gelu(layer.mlp.fc1(layer.norm2(x))))
        out = self.head(encoder.encoder_norm(x)[:, 0])[0]
        return out[0] if len(out) == 1 else (out * torch.arange(1.0, len(out) + 1)).sum()


def std_conv(ins, outs, size, stride):
    return StdConv(ins, outs, size, stride, bias=False)


def randomise(module, seed):
    """Weights that keep activations of the order of 1, whatever the depth."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name in ("alpha", "beta") or name.startswith("lin"):
                value.uniform_(0.0, 1.0, generator=generator)
            elif value.ndim > 1 and "_emb" not in name and "cls" not in name:
                value.normal_(0.0, (2 / value[0].numel()) ** 0.5, generator=generator)
            else:
                value.normal_(0.0, 0.2, generator=generator)
    return module.eval()
