"""`[policies.engine]` and `[policies.train]`: what serves the model, and how it learns."""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

#: Why a configuration may hold no secret, and where one belongs.
KEPT = "every iteration keeps its configuration, so put the servers' key into VLLM_API_KEY in the environment"


class EngineConfig(BaseModel):
    """`[policies.engine]`: what serves the model."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["hf", "vllm", "fake"] = "hf"
    """hf: transformers in this process. vllm: vLLM servers (docs/vllm.md). fake: canned answers for tests of
    everything that is not an engine."""
    model: str = "bundled:smollm2-135m-instruct"
    """`bundled:smollm2-135m-instruct`, a local model directory, or a Hugging Face id."""
    max_batch: int = Field(default=16, ge=1, le=1024)
    """Answers decoded together, on each server where there are several; more wait in the queue."""
    max_queue: int = Field(default=64, ge=0, le=100_000)
    """Requests that may wait; beyond it clients are told 429 and when to come back."""
    max_context: int = Field(default=2048, ge=32)
    """Tokens of prompt and answer together; the model's own limit holds if it is smaller."""
    threads: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """CPU threads at most while no trainer runs; auto: the cores the process may use, heeding a container's quota.
    While one runs, the service uses one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """hf: auto takes a GPU where there is one."""
    spawn: bool = True
    """vllm: start a server on the loopback interface and look after it."""
    command: str = "vllm"
    """vllm: the program to start it with, a name on the PATH or a path."""
    port: int = Field(default=8100, ge=1, le=65535)
    """vllm: the started server's port on 127.0.0.1."""
    arguments: list[str] = []
    """vllm: further arguments of `vllm serve`, e.g. ["--tensor-parallel-size", "2"]."""
    urls: list[str] = []
    """vllm: servers that run already, all with the same model. They must see the state directory under the same path,
    and belong to this honed alone."""
    share: Literal["coreside", "sleep"] = "coreside"
    """vllm: how server and trainer share a GPU. coreside: the server keeps to gpu_memory_fraction. sleep: the first
    server sleeps while an iteration trains, and chats go to the others or are told 503."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """vllm: numbers the started server computes with. auto is the trainer's own: bfloat16 on a GPU, float32 on a CPU.
    vLLM's own choice for a float32 model is half of that, which the attestation refuses."""
    gpu_memory_fraction: float = Field(default=0.45, gt=0, le=1)
    """vllm: share of the GPU's memory the started server takes."""
    max_loras: int = Field(default=5, ge=2, le=64)
    """vllm: LoRA slots of each server. One always stays empty; daemon.keep_loaded adapters, the candidate and one
    that still drains need the others."""
    max_lora_rank: Literal["auto"] | Annotated[int, Field(ge=1, le=512)] = "auto"
    """vllm: largest rank the started server takes; auto is policies.train.rank."""
    start_timeout: float = Field(default=900, gt=0)
    """vllm: seconds until the first server must answer."""
    load_timeout: float = Field(default=120, gt=0)
    """vllm: seconds a server has to load and prove an adapter before it leaves the rotation."""
    stall_timeout: float = Field(default=300, gt=0)
    """vllm: seconds of silence inside an answer after which its server counts as gone."""
    recycle_growth_mb: int = Field(default=4096, ge=64)
    """vllm: MiB the started server may grow by, over the adapters it loads, before it is started anew in a quiet
    moment."""

    @field_validator("urls")
    @classmethod
    def _http(cls, value: list[str]) -> list[str]:
        for url in value:
            if "@" in url:
                raise ValueError(f"an address may hold no name and password; {KEPT}")
            if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
                raise ValueError(f"{url!r} is no http:// or https:// address")
        return value

    @field_validator("arguments")
    @classmethod
    def _no_secret(cls, value: list[str]) -> list[str]:
        # vLLM takes underscores for dashes, and the beginning of a name for the name.
        if any(argument.replace("_", "-").startswith("--api-k") for argument in value):
            raise ValueError(f"--api-key is not allowed here; {KEPT}")
        return value

    @model_validator(mode="after")
    def _a_server(self) -> Self:
        if self.kind == "vllm" and not self.servers():
            raise ValueError('kind = "vllm" needs spawn = true or at least one of urls')
        if len(set(self.servers())) < len(self.servers()):
            raise ValueError("urls names a server twice")
        return self

    def servers(self) -> tuple[str, ...]:
        """Addresses of the vLLM servers, the started one first."""
        spawned = (f"http://127.0.0.1:{self.port}",) if self.spawn else ()
        return (*spawned, *(url.rstrip("/") for url in self.urls))


class TrainConfig(BaseModel):
    """How the trainer child learns. Defaults are those measured to work for the embedded 135M model."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    rank: int = Field(default=16, ge=1, le=256)
    """LoRA rank."""
    alpha: float = Field(default=32.0, gt=0)
    """LoRA alpha; the adapter's update is scaled by alpha / rank."""
    layers: Literal["all"] | Annotated[int, Field(ge=1)] = 10
    """Adapt the linear layers of the last N blocks, or of all. Fewer is about three times faster on a CPU,
    because everything below is computed once."""
    learning_rate: float = Field(default=7e-4, gt=0, le=1)
    """Peak rate of an adapter trained from the base. Models of billions of parameters want 5e-6 to 5e-5."""
    learning_rate_continued: float = Field(default=3e-4, gt=0, le=1)
    """Peak rate when the adapter continues from the incumbent."""
    epochs: int = Field(default=3, ge=1, le=50)
    """Passes over the examples."""
    batch_size: int = Field(default=16, ge=2, le=1024)
    """Examples per optimiser step; KTO's baseline needs at least two."""
    beta: float = Field(default=0.1, gt=0, le=10)
    """Inverse temperature of KTO and DPO."""
    kto_ratio: float = Field(default=1.0, ge=1.0, le=1.5)
    """Total weight of liked answers over disliked ones after class balancing."""
    kto_weight_cap: float = Field(default=8.0, ge=1.0, le=100)
    """Largest class weight balancing may give, so that a few raters cannot steer a skewed run."""
    dpo_nll: float = Field(default=0.1, ge=0, le=10)
    """Weight of the chosen answer's likelihood beside the DPO loss; keeps it from sinking with the rejected one."""
    replay_share: float = Field(default=0.25, ge=0, le=0.9)
    """Share of an iteration's examples repeated from feedback that earlier ones learned from, against forgetting it.
    0 repeats none."""
    anchor_share: float = Field(default=0.15, ge=0, le=0.9)
    """Share of them that are answers of the base itself, kept likely, against forgetting what base could do. Fewer
    where fewer are logged; none before anything was learned. 0 takes none."""
    rebuild_every: int = Field(default=5, ge=0)
    """After so many candidates since the last one from base, promoted or not, an iteration trains a second candidate
    from base on all feedback, and the better one is kept. 0: never for this reason."""
    rebuild_at: float = Field(default=0.8, gt=0)
    """The same when the incumbent's KL to the base, or the path of its steps, has reached this share of
    daemon.gate.kl_base_hard or kl_path_hard (of the path's 1 at most), or the path is not known."""
    rebuild_examples: int = Field(default=512, ge=2)
    """Examples that a rebuilt candidate learns from: all new ones, and past ones up to so many together."""
    max_length: int = Field(default=1024, ge=16)
    """Tokens of prompt and answer together; a longer prompt loses its oldest tokens."""
    probes: int = Field(default=16, ge=2, le=512)
    """Prompts answered by the candidate and the incumbent to measure KL and shape."""
    probe_tokens: int = Field(default=64, ge=8, le=4096)
    """New tokens per probe answer."""
    probe_temperature: float = Field(default=0.8, ge=0, le=2)
    """Temperature of probe answers."""
    threads: Literal["auto"] | Annotated[int, Field(ge=1)] = 1
    """CPU threads of the trainer. More than one beside a busy service is slower, not faster."""
    processes: int = Field(default=1, ge=1, le=64)
    """Processes that share every training step, each with a GPU of its own; hide GPUs that serve from them
    (CUDA_VISIBLE_DEVICES). Without a GPU each takes policies.train.threads of the CPU."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Frozen base weights: auto is bfloat16 on a GPU, float32 on a CPU."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random in a run; the iteration's number is added."""
    free_memory_mb: int = Field(default=1536, ge=0)
    """MiB that must be free before a trainer starts, on the (first) GPU where there is one, else in main memory for
    each of policies.train.processes; with less the iteration fails and its votes wait. Give a GPU what the model in
    bfloat16, activations and logits take. 0: do not look."""
    stall_seconds: float = Field(default=1800, gt=0)
    """A trainer that reports nothing for this long is stopped and the iteration fails."""

    @model_validator(mode="after")
    def _room_for_new(self) -> Self:
        if self.replay_share + self.anchor_share >= 1:
            raise ValueError(
                "replay_share and anchor_share must sum to less than 1, to leave room for what is new"
            )
        return self
