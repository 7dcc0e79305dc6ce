"""Whether an engine computes the model it was given.

Apart from checkpoint.py, so that a measuring process doesn't load PyTorch.
"""

import numpy as np

from engines import token_ids

IDS = token_ids(48)
LOGITS = "reference.npy"


def relative_error(checkpoint, engine):
    """How far an engine's logits are from PyTorch's in f32: |difference| / |logits|."""
    expected = np.load(checkpoint / LOGITS)
    difference = engine.logits(IDS) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))
