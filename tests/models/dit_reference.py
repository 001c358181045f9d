"""The transformer once more, in float64 numpy, one example, head and token at a time.

Written from the equations, sharing nothing with the code under test but the names of parameters.
"""

import numpy as np


def at(tree, index):
    """The parameters of one block out of a stack."""
    if isinstance(tree, dict):
        return {name: at(value, index) for name, value in tree.items()}
    return np.asarray(tree, np.float64)[index]


def dense(params, x):
    """A linear layer of x [..., c], whatever the axes that the layer's own channels are kept in."""
    kernel = np.asarray(params["kernel"], np.float64)
    out = x @ kernel.reshape(x.shape[-1], -1)
    return out + np.asarray(params["bias"], np.float64).reshape(-1) if "bias" in params else out


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def rms_norm(params, x):
    scale = np.asarray(params["scale"], np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def mlp(params, x, activation):
    return dense(params["out_layer"], activation(dense(params["in_layer"], x)))


def sinusoids(value):
    angles = [1000 * value * 10_000 ** (-i / 128) for i in range(128)]
    return np.asarray([np.cos(a) for a in angles] + [np.sin(a) for a in angles])


def rotate(x, ids, axes_dim, theta):
    """Channel pairs as complex numbers, turned by their angles. x is [n, d], ids [n, 3]."""
    turned = np.empty_like(x)
    for token in range(len(x)):
        channel = 0
        for axis, dim in enumerate(axes_dim):
            for i in range(dim // 2):
                z = complex(x[token, channel], x[token, channel + 1])
                z *= np.exp(1j * ids[token, axis] * theta ** (-2 * i / dim))
                turned[token, channel : channel + 2] = z.real, z.imag
                channel += 2
    return turned


def attend(config, norm_of_token, norms, qkv, ids):
    """Multi-head attention of one example; qkv is [n, 3 hidden], norms the QK norms' parameters.

    `norm_of_token[i]` says which of the norms token i takes.
    """
    hidden, dim = config.hidden_dim, config.hidden_dim // config.num_heads
    out = np.zeros((len(qkv), hidden))
    for head in range(config.num_heads):
        cut = slice(head * dim, (head + 1) * dim)
        q, k, v = (qkv[:, part * hidden : (part + 1) * hidden][:, cut] for part in range(3))
        q = np.stack(
            [rms_norm(norms[s]["query_norm"], x) for s, x in zip(norm_of_token, q, strict=True)]
        )
        k = np.stack(
            [rms_norm(norms[s]["key_norm"], x) for s, x in zip(norm_of_token, k, strict=True)]
        )
        q, k = (rotate(x, ids, config.rope_axes_dim, config.rope_theta) for x in (q, k))
        for i in range(len(q)):
            weights = np.exp(k @ q[i] / np.sqrt(dim))
            out[i, cut] = weights @ v / weights.sum()
    return out


def double_block(config, params, image, context, embedding, ids):
    streams = {"txt": context, "img": image}
    chunks = {
        name: np.split(dense(params[f"{name}_mod"]["lin"], silu(embedding)), 6) for name in streams
    }
    qkv, owner = [], []
    for name, x in streams.items():
        shift, scale = chunks[name][:2]
        qkv.append(dense(params[f"{name}_attn"]["qkv"], layer_norm(x) * (1 + scale) + shift))
        owner += [name] * len(x)
    norms = {name: params[f"{name}_attn"]["norm"] for name in streams}
    attended = attend(config, owner, norms, np.concatenate(qkv), ids)
    parts = dict(zip(streams, np.split(attended, [len(context)]), strict=True))
    result = {}
    for name, x in streams.items():
        _, _, gate, shift, scale, mlp_gate = chunks[name]
        x = x + gate * dense(params[f"{name}_attn"]["proj"], parts[name])
        normed = layer_norm(x) * (1 + scale) + shift
        result[name] = x + mlp_gate * mlp(params[f"{name}_mlp"], normed, gelu)
    return result["img"], result["txt"]


def single_block(config, params, tokens, embedding, ids):
    shift, scale, gate = np.split(dense(params["modulation"]["lin"], silu(embedding)), 3)
    normed = layer_norm(tokens) * (1 + scale) + shift
    qkv, hidden = dense(params["linear1_qkv"], normed), dense(params["linear1_mlp"], normed)
    attended = attend(config, [0] * len(tokens), [params["norm"]], qkv, ids)
    out = dense(params["linear2_attn"], attended) + dense(params["linear2_mlp"], gelu(hidden))
    return tokens + gate * out


def dit(config, params, image, image_ids, context, context_ids, time, pooled, guidance, extra):
    """One example of the whole network: context first, then `extra` at the hidden size."""
    embedding = mlp(params["time_in"], sinusoids(time), silu)
    embedding = embedding + mlp(params["guidance_in"], sinusoids(guidance), silu)
    embedding = embedding + mlp(params["vector_in"], pooled, silu)
    image = dense(params["img_in"], image)
    context = np.concatenate((dense(params["txt_in"], context), extra))
    ids = np.concatenate((context_ids, image_ids))
    for i in range(config.num_double_blocks):
        block = at(params["double_blocks"], i)
        image, context = double_block(config, block, image, context, embedding, ids)
    tokens = np.concatenate((context, image))
    for i in range(config.num_single_blocks):
        tokens = single_block(config, at(params["single_blocks"], i), tokens, embedding, ids)
    final = params["final_layer"]
    shift, scale = np.split(dense(final["adaLN_modulation"], silu(embedding)), 2)
    return dense(final["linear"], layer_norm(tokens[len(context) :]) * (1 + scale) + shift)
