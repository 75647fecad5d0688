"""Every error a user can meet: what was found, where, and how to fix it.

Each class also inherits the built-in that a caller would expect, so that library users may
catch either. `cli.py` turns any of them into one message and an exit code, which says to a
scheduler whether the same command may be run again as it is.
"""

from typing import Any

EXIT_ERROR = 1
"""A person has to mend something first."""
EXIT_CRASH = 70
"""Our mistake or the machine's: another node may do better (EX_SOFTWARE of sysexits.h)."""
EXIT_RETRY = 75
"""The same command may succeed later or elsewhere (EX_TEMPFAIL)."""


class PipelineError(Exception):
    """An error that says what was found and expected, where, and how to fix it."""

    can_retry = False
    """Whether the same command may succeed later or elsewhere, with nothing mended."""

    def __init__(self, what: str, *, where: str, fix: str, can_retry: bool | None = None) -> None:
        """Make the error.

        Args:
            what: what was found, and what was expected instead.
            where: the file, shard, column or option at fault.
            fix: the command or edit that mends it.
            can_retry: as the attribute; None for what is usual of the class.
        """
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix
        if can_retry is not None:
            self.can_retry = can_retry

    @property
    def exit_code(self) -> int:
        """Return the code with which a command ends that meets it."""
        return EXIT_RETRY if self.can_retry else EXIT_ERROR

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep all of it when it is sent to another process."""
        return _rebuilt, (type(self), self.what, self.where, self.fix, self.can_retry)

    def __str__(self) -> str:
        """Give the three lines that the terminal shows."""
        return f"{self.what}\n  where: {self.where}\n  fix:   {self.fix}"


def _rebuilt(
    kind: type[PipelineError], what: str, where: str, fix: str, can_retry: bool
) -> PipelineError:
    return kind(what, where=where, fix=fix, can_retry=can_retry)


class PlanNotFoundError(PipelineError, FileNotFoundError):
    """The workspace has no plan.json."""


class PlanMismatchError(PipelineError, ValueError):
    """A new plan differs from the one the workspace already has."""


class ConfigError(PipelineError, ValueError):
    """A JSON file or option does not fit its dataclass."""


class CatalogError(PipelineError, ValueError):
    """The items or labels cannot be planned as they are."""


class SourceChangedError(PipelineError, RuntimeError):
    """An items file is no longer the one that was planned."""


class EncoderError(PipelineError, RuntimeError):
    """An encoder cannot be resolved or loaded, or is not the planned one."""


class DeviceError(PipelineError, RuntimeError):
    """A process on one of several devices failed."""


class ShardsFailedError(PipelineError, RuntimeError):
    """Some shards could not be embedded by a cluster's workers; all others are done."""


class WorkspaceError(PipelineError, OSError):
    """The workspace cannot be read or written."""


class ShardError(PipelineError, ValueError):
    """A shard number outside the plan."""


class SpecMismatchError(PipelineError, ValueError):
    """The cache was made by another encoder than the plan's."""


class CacheIncompleteError(PipelineError, RuntimeError):
    """A shard or the label embeddings are not committed yet."""


class CacheCorruptError(PipelineError, RuntimeError):
    """A committed file does not match its checksum."""


class CacheBrokenError(PipelineError, RuntimeError):
    """`verify` found something that claims to be done and is not."""


class LeaseError(PipelineError, RuntimeError):
    """Another process holds the shard."""

    can_retry = True


class TooManyBadRowsError(PipelineError, RuntimeError):
    """More rows than allowed have an unreadable image or title."""


class NeighborsError(PipelineError, RuntimeError):
    """The label graph is missing, stale or cannot be built."""


class CodesError(PipelineError, RuntimeError):
    """The label codes are missing, stale or cannot be made."""


class CleanError(PipelineError, RuntimeError):
    """The table of what to leave out is damaged or stale, or cannot be made."""


class ReportError(PipelineError, RuntimeError):
    """There is nothing to report yet, or it is stale."""


class LabelNotFoundError(PipelineError, KeyError):
    """No label has the given name, path or id."""


class TargetError(PipelineError, ValueError):
    """Parameters from which no label representation can be made."""


class FitError(PipelineError, RuntimeError):
    """Training cannot start, its loss diverges, or memory is short."""


class FitStoppedError(PipelineError, RuntimeError):
    """A signal stopped training; a checkpoint is there."""

    can_retry = True


class ExportError(PipelineError, RuntimeError):
    """A model cannot be exported there, or does not say what the network says."""


class ServeError(PipelineError, OSError):
    """The service cannot start: an address is taken, or packages are missing."""


class EmbeddingFilesError(PipelineError, ValueError):
    """Embeddings made elsewhere, or for others, cannot be read, matched or written."""
