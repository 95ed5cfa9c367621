"""llama.cpp's own server on one model file, until it is ended. Run by the Python of an environment that has
`xllamacpp` (`make llama-cpp`); knows nothing of honed.

    .venv-llama/bin/python benchmarks/llama_server.py MODEL.gguf --port 8123 --threads 2 --together 8
"""

import argparse
import signal

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--together", type=int, default=8, help="requests decoded together")
    parser.add_argument("--context", type=int, default=1024, help="tokens of each request")
    chosen = parser.parse_args()
    asked = xllamacpp.CommonParams()
    asked.model.path, asked.model_alias = chosen.model, {"base"}
    asked.port, asked.n_parallel, asked.n_ctx = chosen.port, chosen.together, chosen.context * chosen.together
    asked.cpuparams.n_threads = asked.cpuparams_batch.n_threads = chosen.threads
    server = xllamacpp.Server(asked)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
