"""What a night leaves to read: `nightly.md`, `junit.xml` and `trend.html`."""

from __future__ import annotations

from pathlib import Path

from autocompress.files import write_bytes
from autocompress.report.nightly_text import night_junit, night_markdown
from autocompress.report.trend import trend_html
from autocompress.study.nightly import Night, all_verdicts


def write_night(night: Night) -> list[Path]:
    """Writes the three files beside `nightly.json`.

    Raises:
        StorageError: If one cannot be written.
    """
    texts = {
        "nightly.md": night_markdown(night),
        "junit.xml": night_junit(night),
        "trend.html": trend_html(all_verdicts(night.out)),
    }
    for name, text in texts.items():
        write_bytes(night.out / name, text.encode())
    return [night.out / name for name in ("nightly.json", *texts)]
