"""Tables in Markdown: text stays in its cell, and is no markup."""

import pytest

from lagseg_jax.reports.markdown import decimal, plain, table_head, table_row


def test_a_table_by_hand():
    lines = [*table_head(["arm", "Dice"]), table_row(["a", decimal(0.12345, 3)])]
    assert lines == ["| arm | Dice |", "|---|---|", "| a | 0.123 |"]
    assert decimal(None, 3) == "-" and decimal(-1.0, 0) == "-1"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("lora_rank 4, 1e-3 * 2", "lora_rank 4, 1e-3 * 2"),
        ("a | b", r"a \| b"),
        ("a\\| b", r"a\\\| b"),
        ("<form action=x>", r"\<form action=x>"),
        ("[x](javascript:y)", r"\[x](javascript:y)"),
        ("two\nlines\r\t of it", "two lines of it"),
        ("`code`", r"\`code\`"),
    ],
)
def test_text_from_outside(text, shown):
    assert plain(text) == shown
    assert table_row([plain(text)]).count("\n") == 0
