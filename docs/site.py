"""A hook of MkDocs: the site has the repository's layout.

MkDocs alone would take this directory as the root, and links to what lies outside of it would lead nowhere.
With the layout kept, ``../depo/loop.py`` is right in the repository and on the site, which serves the file.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("*.md", "docs/*.md", "recipes/*.md", "benchmarks/log/*.md", "benchmarks/results/*.md")
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages, and the files that they link to."""
    pages = [page for pattern in PAGES for page in sorted(ROOT.glob(pattern))]
    linked = {
        (page.parent / link).resolve() for page in pages for link in LINK.findall(page.read_text("utf-8"))
    }
    found = {*pages, *(file for file in linked if file.is_file() and file.is_relative_to(ROOT))}
    names = sorted(file.relative_to(ROOT).as_posix() for file in found)
    theirs = [file for file in files if file.src_dir != config.docs_dir]
    ours = [File(name, str(ROOT), config.site_dir, config.use_directory_urls) for name in names]
    return Files([*theirs, *ours])
