"""The two errors that kernels raise; both are subclasses of what callers already catch."""


class ShapeError(ValueError):
    """A tensor's rank, shape, dtype or device is wrong; the text says what it must be and what it was."""


class BackendError(RuntimeError):
    """The backend asked for cannot run here; the text says why, for every backend that was considered."""
