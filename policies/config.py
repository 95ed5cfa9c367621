"""`[policies.engine]` and `[policies.train]`: what serves the model, and how it learns."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class EngineConfig(BaseModel):
    """`[policies.engine]`: what serves the model."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["hf", "fake"] = "hf"
    """hf: transformers in this process. fake: canned answers for tests of everything that is not an engine."""
    model: str = "bundled:smollm2-135m-instruct"
    """`bundled:smollm2-135m-instruct`, a local model directory, or a Hugging Face id."""
    max_batch: int = Field(default=16, ge=1, le=1024)
    """Answers decoded together; more wait in the queue."""
    max_queue: int = Field(default=64, ge=0, le=100_000)
    """Requests that may wait; beyond it clients are told 429 and when to come back."""
    max_context: int = Field(default=2048, ge=32)
    """Tokens of prompt and answer together; the model's own limit holds if it is smaller."""
    threads: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """CPU threads while no trainer runs; auto takes all cores. While one runs, the service uses one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one."""


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
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Frozen base weights: auto is bfloat16 on a GPU, float32 on a CPU."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random in a run; the iteration's number is added."""
    stall_seconds: float = Field(default=1800, gt=0)
    """A trainer that reports nothing for this long is stopped and the iteration fails."""
