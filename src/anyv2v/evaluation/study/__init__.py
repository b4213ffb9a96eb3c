"""The paper's human evaluation (arXiv 2403.14468, section 5.3): blind, side by side, in a local page."""
