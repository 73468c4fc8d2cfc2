"""How a command ends that did not do what it was asked: an exit code, and what a person reads."""

OK, FAILED, USAGE, NOT_FOUND, CONFLICT, WAITING, UNREACHABLE = range(7)
INTERRUPTED = 130


class Stop(Exception):
    """`what` happened, `why`, and one command (or act) that is the `fix`; a text that is empty is not printed."""

    def __init__(self, code: int, what: str, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.code, self.what, self.why, self.fix = code, what, why, fix

    def text(self) -> str:
        parts = [f"cairn: {self.what}"] if self.what else []
        parts += [f"  why: {self.why}"] if self.why else []
        parts += [f"  fix: {self.fix}"] if self.fix else []
        return "\n".join(parts)
