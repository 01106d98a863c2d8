"""vLLM as a child of bench/compare.ts: the protocol of bench/peers/protocol.ts in Python.

Run by the Python that vLLM is installed in. The engine runs in this process and is stepped by hand,
so that no queue or socket is measured. The depth of a row comes from the prefix cache: the tokens
before it are computed once, and every measurement's prompts begin with them. Blocks are cached
whole, so depths are multiples of the block size or are rounded by vLLM to one below.
"""

import json
import random
import sys
import time

sys.dont_write_bytecode = True  # the modules beside this one lie in the source tree

MARK = "@bench "


def say(message):
    print("\n" + MARK + json.dumps(message), flush=True)


class Driver:
    def __init__(self, setup):
        from gguf_to_hf import checkpoint_folder
        from vllm import LLM, SamplingParams

        self.sampling_params = SamplingParams
        self.random = random.Random(setup["seed"])
        self.prefixes = []
        self.next_id = 0
        self.llm = LLM(
            model=checkpoint_folder(setup["modelPath"], setup["settings"]["folder"]),
            dtype="bfloat16",
            skip_tokenizer_init=True,
            enable_prefix_caching=True,
            max_model_len=setup["maxLength"] + 1,
            max_num_seqs=max(16, setup["maxBatch"]),
        )
        self.engine = self.llm.llm_engine
        self.vocab_size = self.llm.llm_engine.model_config.get_vocab_size()

    def tokens(self, count):
        return [self.random.randrange(self.vocab_size) for _ in range(count)]

    def add(self, tokens, generate):
        self.next_id += 1
        params = self.sampling_params(
            temperature=0, max_tokens=generate, min_tokens=generate, ignore_eos=True, detokenize=False
        )
        self.engine.add_request(str(self.next_id), {"prompt_token_ids": tokens}, params)

    def finish(self):
        while self.engine.has_unfinished_requests():
            self.engine.step()

    def prefix(self, sequence, depth):
        """The first `depth` tokens of a sequence, in the cache."""
        while len(self.prefixes) <= sequence:
            self.prefixes.append([])
        tokens = self.prefixes[sequence]
        tokens.extend(self.tokens(depth - len(tokens)))
        prefix = tokens[:depth]
        if depth > 0:  # computes what is missing; a hit otherwise
            self.add(prefix + self.tokens(1), 1)
            self.finish()
        return prefix

    def measure(self, workload):
        work, batch = workload["work"], workload["batch"]
        generate = 1 if work == "prefill" else workload["generate"]
        # A decode's first token comes out of the step that computes its last prompt token.
        new = workload["prompt"] if work != "decode" else 1
        prompts = [self.prefix(i, workload["depth"]) + self.tokens(new) for i in range(batch)]
        begin = time.perf_counter()
        for prompt in prompts:
            self.add(prompt, generate)
        self.finish()
        return time.perf_counter() - begin


def main():
    from vllm_env import environment, run_with

    setup = json.loads(sys.argv[1])
    run_with(
        {
            **environment(setup["threads"], int(setup["settings"].get("kvGiB", "4"))),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    )
    driver = Driver(setup)
    import torch
    import vllm

    say(
        {
            "hello": {
                "version": vllm.__version__,
                "isa": torch.backends.cpu.get_cpu_capability(),
                "threads": torch.get_num_threads(),
            }
        }
    )
    for line in sys.stdin:
        if not line.strip():
            continue
        request = json.loads(line)
        try:
            say({"seconds": driver.measure(request["workload"])})
        except Exception as error:  # the parent decides what a failed row means
            say({"error": f"{type(error).__name__}: {error}"})


main()
