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
    if hasattr(engine, "choice"):
        return choice_error(expected, *engine.choice(IDS))
    difference = engine.logits(IDS) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))


def choice_error(expected, token, logprob):
    """The same of its log probability, where an engine shows only its choice."""
    if token != expected.argmax():
        return 1.0
    top = expected.max()
    likeliest = -np.log(np.exp(expected - top).sum())
    return float(abs(logprob - likeliest) / abs(likeliest))
