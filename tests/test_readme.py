"""The README says what bench/results say."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_pictures_and_files_that_the_readme_names_are_there():
    named = re.findall(r"\]\(([^)]+)\)", README)
    assert len(named) > 8 and all((ROOT / path).exists() for path in named)
