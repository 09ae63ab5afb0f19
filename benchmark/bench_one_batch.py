"""How long prefill and decode of one static batch take, without a server: SGLang's benchmark, with its arguments.

python benchmark/bench_one_batch.py --model-path ms_example/demo_model --framework mindspore --device cpu \
    --batch-size 1 4 --input-len 128 --output-len 32
"""

import sglang.benchmark.one_batch
from sglang.srt.plugins import load_plugins

if __name__ == "__main__":
    load_plugins()  # SGLang's benchmark does not
    sglang.benchmark.one_batch.cli_main()
