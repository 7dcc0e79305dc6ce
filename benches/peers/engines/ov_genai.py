"""openvino-genai's continuous batching, over the graph of ov_graph.py."""

import shutil

import numpy as np
import openvino
import openvino_genai

from . import ov_graph
from .ov import compressed, hint

CACHE_GIB = 4  # more than is needed


def prepare(checkpoint, target, precision):
    # Here, since only conversion needs them.
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    graph = ov_graph.build(checkpoint, ov_graph.PagedBuilder)
    target.mkdir()
    save(compressed(graph, precision), target / "openvino_model.xml")
    # It doesn't start without a tokenizer, though it is given ids.
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    both = convert_tokenizer(tokenizer, with_detokenizer=True)
    for name, model in zip(("tokenizer", "detokenizer"), both):
        save(model, target / f"openvino_{name}.xml")
    for name in ("config.json", "generation_config.json"):
        shutil.copy(checkpoint / name, target)


def save(model, path):
    openvino.save_model(model, path, compress_to_fp16=False)


def load(target, precision, threads):
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": hint(precision),
    }
    if precision == "f32":
        # Else it keeps keys and values in 8 bits, whatever it computes in.
        options["KV_CACHE_PRECISION"] = "f32"
    return ContinuousBatching(target, options)


class ContinuousBatching:
    version = openvino_genai.get_version()

    def __init__(self, target, options):
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GIB
        scheduler.enable_prefix_caching = False
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(target), scheduler, "CPU", options
        )
        self.requests = 0

    def serve(self, load):
        running = []
        while load.unfinished:
            for number, request in load.arrived():
                running.append((number, self.ask(request.ids, request.tokens)))
            if not self.pipeline.has_non_finished_requests():
                load.wait()
                continue
            self.pipeline.step()
            for number, answer in running:
                for _ in range(len(new_tokens(answer))):
                    load.token(number)
            running = [(n, a) for n, a in running if not load.is_over(n)]

    def choice(self, ids):
        """The likeliest next token and its log probability."""
        answer = self.ask(ids, 1, logprobs=1)
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
        (output,) = answer.read().values()
        return output.generated_ids[0], output.generated_log_probs[0]

    def ask(self, ids, tokens, **options):
        config = openvino_genai.GenerationConfig(
            max_new_tokens=tokens, ignore_eos=True, do_sample=False, **options
        )
        self.requests += 1
        return self.pipeline.add_request(
            self.requests, openvino.Tensor(np.array([ids])), config
        )


def new_tokens(answer):
    if not answer.can_read():
        return []
    (output,) = answer.read().values()
    return output.generated_ids
