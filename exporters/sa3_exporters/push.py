"""Uploads a bundle to a repository on the hub, whole: the manifest goes with the rest in one commit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from sa3_engines import bundle
from sa3_engines.errors import InvalidRequest, OutputError
from sa3_engines.models import MANIFEST


def check(repo: str) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise InvalidRequest(f"{repo!r} is not a repository's name; write OWNER/NAME")


def push(folder: Path, repo: str, *, private: bool, tell: Callable[[str], None]) -> str:
    """Returns the address of what was uploaded."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    check(repo)
    found = bundle.read(folder, deep=True)
    api = hub.HfApi()
    total = sum(file.size for file in found.files.values())
    tell(f"uploading {len(found.files) + 1} files, {total / 1e6:,.0f} MB, to {repo}")
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[*found.files, MANIFEST],
            commit_message=f"{found.model} for {', '.join(found.backends)}: {', '.join(found.tiers)} ({found.id})",
        )
    except errors.LocalTokenNotFoundError as e:
        raise OutputError(f"cannot upload to {repo}: not logged in; run `hf auth login` or set HF_TOKEN") from e
    except (errors.HTTPError, errors.OfflineModeIsEnabled, OSError, ValueError) as e:  # pyright: ignore[reportPrivateImportUsage]
        why = " ".join(str(e).split())
        raise OutputError(f"cannot upload {folder} to {repo}: {why}; the bundle is complete where it is") from e
    return str(commit.commit_url)
