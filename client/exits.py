"""The exit codes of the command line."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit code says; docs/client.md has the same table."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> "ExitCode":
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    DONE = 0, "done; where a task was waited for, it is finished"
    FAILED = 1, "an error, of ours or of the server"
    USAGE = 2, "wrong usage, or a setting that can't be used"
    TASK_FAILED = 3, "the task ended as an error"
    CANCELLED = 4, "the task was cancelled"
    NEEDS_HUMAN = 5, "the task waits for a human"
    UNREACHABLE = 6, "the server can't be reached, or is not available"
    INTERRUPTED = 130, "interrupted; what was submitted goes on"


OF_STATUS = {
    "finished": ExitCode.DONE,
    "error": ExitCode.TASK_FAILED,
    "cancelled": ExitCode.CANCELLED,
    "human_intervention": ExitCode.NEEDS_HUMAN,
}
"""The exit code for the status in which a task is left, or for its last event."""

EPILOG = "\n".join(["Exit codes", *(f"{code.value:>5}  {code.meaning}" for code in ExitCode)])
