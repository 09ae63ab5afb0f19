"""How many tokens a second the offline Engine makes of a data set. SGLang's benchmark, with its arguments.

python benchmark/bench_offline_throughput.py --model-path ms_example/demo_model --framework mindspore --device cpu \
    --max-total-tokens 32768 --dataset-name random --dataset-path sharegpt.json --num-prompts 16
"""

import sglang.benchmark.offline_throughput
from sglang.srt.plugins import load_plugins

if __name__ == "__main__":
    load_plugins()  # SGLang's benchmark does so only once it has read its arguments
    sglang.benchmark.offline_throughput.cli_main()
