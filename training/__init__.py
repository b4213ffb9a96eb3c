"""How the embedded model was made: the checkpoint that ``mini`` runs on, from nothing but rendered clips.

``python -m training --help`` says how to run it, and ``README.md`` what was trained on what. Not covered:
more than one GPU.
"""
