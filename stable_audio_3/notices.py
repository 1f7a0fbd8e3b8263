"""What the Python interface and the command tell a user alike: how far a generation is, and which prompts are cut."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from sa3_runtime.pipeline import Pipeline, Progress
from sa3_runtime.tokens import Tokenizer


@contextmanager
def progress_bar(*, hidden: bool = False) -> Generator[Callable[[Progress], None]]:
    """Over the sampling steps, and on a terminal only."""
    from tqdm import tqdm

    with tqdm(disable=True if hidden else None, leave=False) as bar:

        def show(at: Progress) -> None:
            if at.stage == "sample":
                bar.total = at.total
                bar.update(at.done - bar.n)

        yield show


def cuts(pipeline: Pipeline, tokenizer: Callable[[], Tokenizer | None], *texts: object) -> list[str]:
    """A sentence for every text that is longer than the model reads; upstream cuts those without one."""
    longest = pipeline.config.text.max_tokens if pipeline.config.text else 0
    found: list[str] = []
    for text in texts:
        for one in [text] if isinstance(text, str) else text if isinstance(text, Sequence) else ():
            # A token is a byte at least: most prompts need no tokenizer to be seen to fit.
            if not isinstance(one, str) or len(one.encode(errors="replace")) <= longest:
                continue
            loaded = tokenizer()
            count = len(loaded.ids(one)) if loaded else 0
            if count > longest:
                found.append(f"the prompt is {count} tokens long and the model reads {longest}; the rest is cut")
    return found
