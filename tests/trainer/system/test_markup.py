"""Elements in which no text becomes markup."""

from __future__ import annotations

from trainer.system import markup


def test_only_plain_text_is_escaped():
    inner = markup.element("b", "1 < 2")
    assert markup.element("p", "a & ", inner, title='"') == (
        '<p title="&quot;">a &amp; <b>1 &lt; 2</b></p>'
    )


def test_attribute_names_and_numbers_are_written_as_svg_has_them():
    element = markup.element("line", x1=1.04, y1=-0.01, class_="a", stroke_width=2)
    assert element == '<line x1="1" y1="0" class="a" stroke-width="2"></line>'
