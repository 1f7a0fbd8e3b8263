"""Who hears how far an export is. The command draws it; tests and scripts need not."""


class Watch:
    def stage(self, what: str, done: float) -> None:
        """What begins now, and the share of the whole that lies behind."""

    def note(self, what: str) -> None:
        """Something the user should know."""

    def published(self) -> None:
        """The bundle is in its place, and stays there whatever happens now."""
