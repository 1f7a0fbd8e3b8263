"""Every error this toolkit raises on purpose.

Sa3Error
├── InvalidRequest        the caller asked for something that cannot be done (exit 2)
│   └── AudioFileError    an audio file that cannot be read, or holds nothing
├── ModelNotFound         no such name, folder or repository, or no access to it (exit 3)
├── CheckpointError       the files are there and do not fit: config, tensors, adapter (exit 3)
├── BundleError           an engine bundle that is unfinished, changed or not for this machine (exit 3)
├── BackendUnavailable    the engine, device or precision asked for cannot run here (exit 4)
├── BadOutput             a stage produced NaN, silence or a constant (exit 5)
├── ParityError           an export that differs from the reference by more than its precision explains (exit 5)
├── OutputError           the result could not be written (exit 6)
└── Cancelled             the caller, or Ctrl-C, stopped the work (exit 130)

A message says what was asked, what was found and what to do about it.
"""


class Sa3Error(Exception):
    exit_code = 1


class InvalidRequest(Sa3Error):
    exit_code = 2


class AudioFileError(InvalidRequest):
    pass


class ModelNotFound(Sa3Error):
    exit_code = 3


class CheckpointError(Sa3Error):
    exit_code = 3


class BundleError(Sa3Error):
    exit_code = 3


class BackendUnavailable(Sa3Error):
    exit_code = 4


class BadOutput(Sa3Error):
    exit_code = 5

    def __init__(self, stage: str, what: str) -> None:
        super().__init__(f"{stage} produced {what}")
        self.stage = stage


class ParityError(Sa3Error):
    exit_code = 5


class OutputError(Sa3Error):
    exit_code = 6


class Cancelled(Sa3Error):
    exit_code = 130
