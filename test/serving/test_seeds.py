"""--random-seed: the same seed samples the same tokens, another one others.

The seed of a single request is SGLang's --enable-deterministic-inference, which is refused so far.
"""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, sys
import sglang

if __name__ == "__main__":
    arguments = dict(framework="mindspore", device="cpu", max_total_tokens=2048, random_seed=int(sys.argv[2]))
    engine = sglang.Engine(model_path=sys.argv[1], **arguments)
    answer = engine.generate("The list", {"temperature": 1.0, "max_new_tokens": 24, "ignore_eos": True})
    print(json.dumps(answer["output_ids"]))
    engine.shutdown()
"""
MODEL = Path(__file__).parents[2] / "ms_example/demo_model"


def sampled(program: Path, seed: int) -> list[int]:
    done = subprocess.run([sys.executable, program, MODEL, str(seed)], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[-1])


def test_the_same_seed_samples_the_same_tokens_and_another_one_others(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    first = sampled(program, 7)
    assert sampled(program, 7) == first
    assert sampled(program, 8) != first
