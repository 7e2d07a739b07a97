"""Hooks of MkDocs: links from the pages to files of the repository, which the site doesn't hold."""

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<up>(?:\.\./)+)(?P<file>[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn a link to a file outside of docs/ into one to the repository, or into its text without `repo_url`."""
    folder, docs = Path(page.file.abs_src_path).parent, Path(config.docs_dir)

    def point(match: re.Match[str]) -> str:
        target = (folder / match["up"] / match["file"]).resolve()
        if target.is_relative_to(docs) or not target.exists():
            return match[0]  # MkDocs checks it
        text, path = match["text"], target.relative_to(docs.parent)
        return (
            f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path})"
            if config.repo_url
            else f"{text} (`{path}`)"
        )

    return _LINK.sub(point, markdown)
