"""Text encoders of a FLUX pipeline with a handful of numbers, as diffusers would store them."""

from pathlib import Path

import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

TOKEN_DIM, POOLED_DIM = 12, 20


def save_text_encoders(folder: Path, seed: int = 0) -> Path:
    """Writes text_encoder, text_encoder_2, tokenizer and tokenizer_2; every weight is random."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for letter in letters:
        words |= {letter: len(words), f"{letter}</w>": len(words) + 1}
    CLIPTokenizer(words, merges=[], model_max_length=16).save_pretrained(folder / "tokenizer")
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *letters, *(f"\u2581{c}" for c in letters)]
    vocabulary = [(piece, -float(rank)) for rank, piece in enumerate(pieces)]
    T5TokenizerFast(vocabulary, extra_ids=0).save_pretrained(folder / "tokenizer_2")
    torch.manual_seed(seed)
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=POOLED_DIM,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=len(pieces),
            d_model=TOKEN_DIM,
            d_kv=4,
            d_ff=24,
            num_layers=2,
            num_heads=3,
            feed_forward_proj="gated-gelu",
        )
    )
    for model, part in ((clip, "text_encoder"), (t5, "text_encoder_2")):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        model.save_pretrained(folder / part)
    return folder
