"""The comparison in docs/simulate.md is what was measured."""

import json

from bench import rehearsal


def test_the_page_shows_the_result():
    """Nothing where nothing was measured."""
    shown = rehearsal.PAGE.read_text().split(rehearsal.MARK)[1]
    table = rehearsal.table(json.loads(rehearsal.RESULT.read_text())) if rehearsal.RESULT.exists() else ""
    assert shown == f"\n{table}"
