"""Runs the unmodified lm-evaluation-harness against a server of the demo model
and compares its log-likelihoods with those that transformers computed.

    python check.py URL
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

here = Path(__file__).parent
url = sys.argv[1]
# Nothing is fetched: the task's texts are beside this file.
environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

for batch in (1, 4):
    with tempfile.TemporaryDirectory() as out:
        arguments = [
            "run", "--model", "local-completions", "--tasks", "stories",
            "--model_args", f"model=demo,base_url={url}/v1/completions,max_length=256,num_concurrent=1",
            "--include_path", str(here), "--batch_size", str(batch),
            "--output_path", out, "--log_samples",
        ]
        command = [sys.executable, "-m", "lm_eval", *arguments]
        subprocess.run(command, check=True, cwd=here, env=environment)
        (samples,) = Path(out).rglob("samples_stories_*.jsonl")
        found = [json.loads(line) for line in samples.read_text().splitlines()]
    found.sort(key=lambda sample: sample["doc_id"])
    expected = json.loads((here / "expected.json").read_text())
    assert len(found) == len(expected), (len(found), len(expected))
    worst = 0.0
    for sample, wanted in zip(found, expected):
        loglikelihood, is_greedy = sample["filtered_resps"][0]
        worst = max(worst, abs(float(loglikelihood) - wanted["loglikelihood"]))
        assert str(is_greedy) == str(wanted["is_greedy"]), (sample["doc"], is_greedy, wanted)
    assert worst < 1e-3, f"log-likelihoods differ by {worst}"
    print(f"lm-eval, batch {batch}: {len(found)} log-likelihoods, largest difference {worst:.1e}")
