"""The files that make a byte tokenizer of other libraries' machinery: 64 specials, then byte b at 64 + b; no merges.

In front of every text come `<bos> <raw>`, as in training. The specials are ordinary rows of the vocabulary that no text
can spell, for text becomes bytes one by one. The names of five are made known in tokenizer_config.json, beside
`split_special_tokens`, without which a literal `<raw>` or `<eos>` in a prompt would become the control symbol. There
stands the class too: `transformers` would else take the one of Qwen2, which normalises Unicode.

A text is Unicode. Bytes that are not valid UTF-8 have no text: who has such bytes gives ids, [1, 3, 64 + b, …].
"""

from typing import Any

from trainer.specials import BOS, EOS, PAD, SPECIALS, closer, opener

NAMES = {PAD: "<pad>", BOS: "<bos>", EOS: "<eos>", opener(0): "<raw>", closer(0): "</raw>"}
_PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}


def letters() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary: itself if it prints, else from U+0100 on."""
    others = iter(range(256, 512))
    return [chr(byte) if byte in _PRINTABLE else chr(next(others)) for byte in range(256)]


def vocabulary() -> dict[str, int]:
    """All 320 rows by name."""
    specials = {NAMES.get(row, f"<special_{row}>"): row for row in range(SPECIALS)}
    return specials | {letter: SPECIALS + byte for byte, letter in enumerate(letters())}


def tokenizer_json() -> dict[str, Any]:
    """tokenizer.json, as the library `tokenizers` reads it."""
    start = [{"SpecialToken": {"id": NAMES[row], "type_id": 0}} for row in (BOS, opener(0))]
    text, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "post_processor": {
            "type": "TemplateProcessing", "single": [*start, text], "pair": [*start, text, second],
            "special_tokens": {
                NAMES[row]: {"id": NAMES[row], "ids": [row], "tokens": [NAMES[row]]} for row in (BOS, opener(0))
            },
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocabulary(), "merges": []},
    }  # fmt: skip


def tokenizer_config(context: int) -> dict[str, Any]:
    """tokenizer_config.json, as `transformers` reads it."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": NAMES[BOS], "eos_token": NAMES[EOS],
        "pad_token": NAMES[PAD], "additional_special_tokens": [NAMES[opener(0)], NAMES[closer(0)]],
        "split_special_tokens": True, "clean_up_tokenization_spaces": False, "padding_side": "left",
        "model_max_length": context, "model_input_names": ["input_ids", "attention_mask"],
    }  # fmt: skip
