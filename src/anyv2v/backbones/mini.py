"""A small model in I2VGen-XL's layout, trained from nothing on rendered clips: see ``training/``.

It runs on any machine, through the code of the real backbone. It knows rendered shapes, not the world.
"""

from __future__ import annotations

from anyv2v.backbones.i2vgen_xl import I2VGenXL

__all__ = ["Mini"]


class Mini(I2VGenXL):
    """See ``I2VGenXL``."""

    name = "mini"
