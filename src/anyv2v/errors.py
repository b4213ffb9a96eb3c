"""Every error that anyv2v raises on purpose.

AnyV2VError                 exit code 1: something on our side
├── UserError               exit code 2: something the user can mend; the message is one line and says how
│   ├── VideoError          a clip that is missing, empty, truncated or no video; a span that it does not have
│   ├── ImageError          a first frame that is missing or cannot be read
│   ├── OutputError         an output that exists already, or a place that cannot be written
│   ├── OptionError         a value out of its range, options that contradict each other, a bad job file
│   ├── CheckpointError     a folder that is no checkpoint, or the checkpoint of another model
│   ├── WeightsMissing      weights that are not on this machine
│   ├── EditorError         an editor of the first frame that failed, or gave no picture
│   └── OutOfMemory         the device is too small for what was asked
└── TapError                an injection point that does not exist in the net, or did not fire
"""

from __future__ import annotations

__all__ = [
    "AnyV2VError",
    "CheckpointError",
    "EditorError",
    "ImageError",
    "OptionError",
    "OutOfMemory",
    "OutputError",
    "TapError",
    "UserError",
    "VideoError",
    "WeightsMissing",
]


class AnyV2VError(Exception):
    """Base of every error of this package."""

    exit_code = 1


class UserError(AnyV2VError):
    """A mistake that the user can mend."""

    exit_code = 2


class VideoError(UserError):
    """A clip that cannot be read, or that lacks the span asked for."""


class ImageError(UserError):
    """An image that cannot be read."""


class OutputError(UserError):
    """A file that would be overwritten, or cannot be written."""


class OptionError(UserError):
    """An option outside its range, or two that contradict each other."""


class CheckpointError(UserError):
    """A folder that holds no checkpoint, or the checkpoint of another model."""


class WeightsMissing(UserError):  # noqa: N818 - reads as what happened
    """Weights that are not on this machine."""


class EditorError(UserError):
    """An editor of the first frame that failed, or gave no picture."""


class OutOfMemory(UserError):  # noqa: N818 - reads as what happened
    """The device has less memory than the job needs."""


class TapError(AnyV2VError):
    """An injection point that matches no module, or that did not fire while it was active."""
