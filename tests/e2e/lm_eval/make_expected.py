"""What transformers computes for the task's texts, written to expected.json.

    python make_expected.py     # needs torch, transformers and safetensors

The tests only read expected.json.
"""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

here = Path(__file__).parent
demo = here / "../../../weights/demo"
model = AutoModelForCausalLM.from_pretrained(demo, dtype=torch.float32).eval()
tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(demo / "tokenizer.json"))

expected = []
for line in (here / "stories.jsonl").read_text().splitlines():
    doc = json.loads(line)
    context = tokenizer.encode(doc["context"])
    ids = tokenizer.encode(doc["context"] + doc["continuation"])
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    logprobs = torch.log_softmax(logits, -1)
    rows = range(len(context) - 1, len(ids) - 1)
    expected.append({
        "loglikelihood": sum(logprobs[row, ids[row + 1]].item() for row in rows),
        "is_greedy": all(logits[row].argmax().item() == ids[row + 1] for row in rows),
    })
(here / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
