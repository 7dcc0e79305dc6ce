"""CTranslate2, converted from the transformers checkpoint."""

import json
import time

import ctranslate2
import numpy as np

from . import token_ids


SERVED_TOGETHER = 8


def prepare(checkpoint, target, precision):
    supported(precision)
    converter = ctranslate2.converters.TransformersConverter(str(checkpoint))
    converter.convert(str(target), quantization=precision)


def load(target, precision, threads):
    supported(precision)
    return CTranslate2(target, precision, threads)


def supported(precision):
    """CTranslate2 would quietly use another type in place of a missing one."""
    known = ctranslate2.get_supported_compute_types("cpu")
    if precision not in known:
        raise RuntimeError(f"no {precision} on this processor, only {sorted(known)}")


class CTranslate2:
    version = ctranslate2.__version__

    def __init__(self, target, precision, threads):
        self.generator = ctranslate2.Generator(
            str(target),
            device="cpu",
            compute_type=precision,
            inter_threads=1,
            intra_threads=threads,
        )
        self.vocabulary = json.loads((target / "vocabulary.json").read_text("utf-8"))

    def decode(self, batch, prompt, tokens):
        # The first step has the prompt in it: the clock starts after that one.
        times = {}

        def on_token(result):
            times[result.step] = time.perf_counter()
            return False

        prompts = [self.words(token_ids(prompt, s)) for s in range(batch)]
        self.generate(prompts, tokens + 1, callback=on_token)
        return times[tokens] - times[0]

    def prefill(self, tokens):
        prompt = [self.words(token_ids(tokens))]
        started = time.perf_counter()
        self.generate(prompt, 1)
        return time.perf_counter() - started

    def serve(self, load):
        """It has no continuous batching: what has arrived is a batch, the next
        one waits for its end. Similar lengths go together, since it computes
        what one prompt is longer than others token by token."""
        waiting = []
        while load.unfinished:
            waiting += load.arrived()
            if not waiting:
                load.wait()
                continue
            waiting.sort(key=lambda arrived: len(arrived[1].ids))
            batch, waiting = waiting[:SERVED_TOGETHER], waiting[SERVED_TOGETHER:]

            def on_token(result):
                load.token(batch[result.batch_id][0])
                return False

            prompts = [self.words(request.ids) for _, request in batch]
            self.generate(prompts, batch[0][1].tokens, callback=on_token)

    def logits(self, ids):
        rows = self.generator.forward_batch([self.words(ids)])
        rows = rows.to(ctranslate2.DataType.float32)
        return np.array(rows)[0, -1]

    def generate(self, prompts, tokens, **options):
        """Greedy, for exactly this many tokens: it can't be told which to take."""
        self.generator.generate_batch(
            prompts,
            max_length=tokens,
            min_length=tokens,
            beam_size=1,
            sampling_topk=1,
            include_prompt_in_result=False,
            max_batch_size=0,
            **options,
        )

    def words(self, ids):
        return [self.vocabulary[i] for i in ids]
