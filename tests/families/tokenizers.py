"""Word-level tokenizers for tiny pipelines: nothing is downloaded."""

from __future__ import annotations

from tokenizers import Tokenizer, normalizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

#: Of several lengths, so that their masks differ; HunyuanVideo 1.5 renders what is quoted.
PROMPTS = ("a small red ball moving left", 'a sign "go" in blue', "a ball")


def word_tokenizer(length: int, before: str = "", tokens: int = 0) -> PreTrainedTokenizerFast:
    """One token a word of `PROMPTS`, closed by `</s>`; any other word is `<unk>`.

    Args:
        length: longest text.
        before: what a pipeline's template puts before the prompt.
        tokens: tokens that the pipeline cuts off for it; filled up with `<s>`.
    """
    words = sorted({word for prompt in PROMPTS for word in prompt.split()})
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", "<s>", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    missing = tokens - len(before.split())
    assert missing >= 0, f"{before!r} has more than {tokens} words"
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace("<|eot_id|>", " "), normalizers.Prepend("<s> " * missing)]
    )
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=length,
        padding_side="right",
    )
