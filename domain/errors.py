"""What the rules say no to. Whoever asked may change the command and ask again."""


class Refused(Exception):
    """The rules say no; the sentence says why."""


class NotFound(Refused):
    """There is no such workflow, task or ask."""


class Full(Refused):
    """There is no room for it now: the same may be asked again later."""


class Conflict(Refused):
    """It was true when you looked, and is no longer: look again."""
