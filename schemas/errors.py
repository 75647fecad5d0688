"""Every error a user can meet: what was found, where, and how to fix it.

Each class also inherits the built-in that a caller would expect, so that library users may
catch either. `cli.py` turns any of them into one message and exit code 1.
"""


class PipelineError(Exception):
    """An error that says what was found and expected, where, and how to fix it."""

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        """Make the error.

        Args:
            what: what was found, and what was expected instead.
            where: the file, shard, column or option at fault.
            fix: the command or edit that mends it.
        """
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        """Give the three lines that the terminal shows."""
        return f"{self.what}\n  where: {self.where}\n  fix:   {self.fix}"


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


class TooManyBadRowsError(PipelineError, RuntimeError):
    """More rows than allowed have an unreadable image or title."""


class NeighborsError(PipelineError, RuntimeError):
    """The label graph is missing, stale or cannot be built."""


class CodesError(PipelineError, RuntimeError):
    """The label codes are missing, stale or cannot be made."""


class CleanError(PipelineError, RuntimeError):
    """The table of what to leave out is damaged or stale, or cannot be made."""


class LabelNotFoundError(PipelineError, KeyError):
    """No label has the given name, path or id."""


class TargetError(PipelineError, ValueError):
    """Parameters from which no label representation can be made."""


class FitError(PipelineError, RuntimeError):
    """Training cannot start, its loss diverges, or memory is short."""


class FitStoppedError(PipelineError, RuntimeError):
    """A signal stopped training; a checkpoint is there."""


class ExportError(PipelineError, RuntimeError):
    """A model cannot be exported there, or does not say what the network says."""


class EmbeddingFilesError(PipelineError, ValueError):
    """Embeddings made elsewhere, or for others, cannot be read, matched or written."""
