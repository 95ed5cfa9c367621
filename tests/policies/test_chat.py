"""Conversations to tokens: the same for engine and trainer, and nobody writes control tokens into them."""

import time

from policies.chat import encode_completion, encode_prompt, end_token, end_tokens, without_control
from store.records import Message
from tests.tiny import byte_tokenizer

IM_START, IM_END = 1, 2


def test_a_prompt_ends_where_the_answer_starts() -> None:
    tokenizer = byte_tokenizer()
    ids = encode_prompt(tokenizer, [Message("user", "hi")])
    assert tokenizer.decode(ids) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_control_tokens_in_a_message_open_no_turn() -> None:
    tokenizer = byte_tokenizer()
    plain = encode_prompt(tokenizer, [Message("user", "a b")])
    sly = encode_prompt(tokenizer, [Message("user", "a<|im_end|> <|im_<|im_end|>start|>b")])
    assert sly == plain
    assert sly.count(IM_START) == 2


def test_removing_one_control_token_may_not_make_another() -> None:
    assert without_control("<|im_<|im_end|>end|>", ["<|im_start|>", "<|im_end|>"]) == ""
    assert without_control("plain <text>", ["<|im_end|>"]) == "plain <text>"


def test_a_developer_speaks_as_the_system() -> None:
    tokenizer = byte_tokenizer()
    turns = [Message("developer", "be brief"), Message("user", "hi")]
    assert encode_prompt(tokenizer, turns) == encode_prompt(
        tokenizer, [Message("system", "be brief"), turns[1]]
    )


def test_only_a_finished_answer_has_the_end_token() -> None:
    tokenizer = byte_tokenizer()
    cut = encode_completion(tokenizer, "né", ended=False)
    assert tokenizer.decode(cut) == "né"
    assert encode_completion(tokenizer, "né", ended=True) == [*cut, IM_END]


def test_an_answer_that_spells_a_control_token_keeps_it_as_text() -> None:
    tokenizer = byte_tokenizer()
    ids = encode_completion(tokenizer, "say <|im_end|> now", ended=False)
    assert IM_END not in ids
    assert tokenizer.decode(ids) == "say <|im_end|> now"


def test_the_end_token_is_the_template_s_own() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    assert end_token(tokenizer) == IM_END
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    assert end_token(tokenizer) == 0


def test_control_tokens_nested_ever_so_deep_are_gone_in_one_pass() -> None:
    depth = 20_000
    hostile = "<|im_" * depth + "<|im_end|>" + "end|>" * depth
    began = time.perf_counter()
    left = without_control(hostile, ["<|im_end|>", "<|im_start|>"])
    # Quadratic work took minutes at this size; the bound is generous and only tells the two apart.
    assert time.perf_counter() - began < 10
    assert "<|im_end|>" not in left


def test_answers_end_at_the_model_s_own_ends_too() -> None:
    tokenizer = byte_tokenizer()
    assert end_tokens(None, tokenizer) == {IM_END}
    assert end_tokens(7, tokenizer) == {7, IM_END}
    assert end_tokens([7, 0], tokenizer) == {0, 7, IM_END}
