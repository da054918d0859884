"""What a model is, in numbers; and what it costs, as formulas over those numbers.

A Llama is a stack of equal layers, so a dozen integers say everything: how much memory its weights take, how many bytes
each cached token adds, how much arithmetic a token needs. Plots, the simulator, the cards and the claims all call the
formulas here; they are written nowhere else.

    parameters  ≈ layers × (attention 2·d·(H + H_kv)·d_head + feed-forward 3·d·d_ff) + vocab·d
    FLOPs/token ≈ 2 × parameters used in products + 4 × layers × H × d_head × context

A multiply and an add are two FLOPs. Kaplan et al. 2020, arXiv:2001.08361 (the counting); Pope et al. 2022,
arXiv:2211.05102 (inference).
"""

from dataclasses import dataclass

from minillm.errors import ModelError


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How the frequencies of RoPE are slowed down for contexts longer than those of training.

    kind "linear": every frequency / factor. "llama3": low frequencies / factor, high ones untouched, a ramp between. "yarn": a
    ramp too, between pairs that turn beta_fast and beta_slow times within the original context; and attention is sharpened.
    attention_factor: of yarn, what queries and keys are multiplied by; None follows from the factor (rope_scaling.py).
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a model of the Llama family (Llama, SmolLM, Mistral without window, Qwen2, Qwen3)."""

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_ff: int
    vocab_size: int
    context_length: int
    norm_eps: float = 1e-5
    rope_base: float = 10000.0
    rope_interleaved: bool = True
    rope_scaling: RopeScaling | None = None
    tied: bool = False  # the output head is the embedding table
    qkv_bias: bool = False  # Qwen2
    qk_norm: bool = False  # Qwen3
    name: str = "model"

    def __post_init__(self) -> None:
        for field in ("n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_ff", "vocab_size", "context_length"):
            if (value := getattr(self, field)) < 1:
                raise ModelError(f"{self.name}: {field} must be at least 1, found {value}.")
        if self.n_heads % self.n_kv_heads:
            raise ModelError(f"{self.name}: {self.n_heads} query heads cannot share {self.n_kv_heads} KV heads evenly.")
        if self.d_head % 2:
            raise ModelError(f"{self.name}: RoPE turns pairs of components, d_head {self.d_head} is odd.")
        if self.rope_base <= 0 or self.norm_eps < 0:
            raise ModelError(f"{self.name}: RoPE base {self.rope_base} must be above 0, norm eps {self.norm_eps} not below.")
        if self.rope_scaling is not None and self.rope_scaling.kind == "yarn" and self.rope_base <= 1:
            raise ModelError(f"{self.name}: YaRN needs frequencies that fall, with a RoPE base above 1, found {self.rope_base}.")

    # --- parameters and bytes -------------------------------------------------------------------------------------

    def matrix_parameters(self) -> int:
        """Count the parameters that take part in a matrix product for every token: all matrices, and the output head once."""
        attention = 2 * self.d_model * (self.n_heads + self.n_kv_heads) * self.d_head
        feed_forward = 3 * self.d_model * self.d_ff
        return self.n_layers * (attention + feed_forward) + self.vocab_size * self.d_model

    def parameters(self) -> int:
        """Count all parameters once; a tied head shares the embedding's."""
        embedding = 0 if self.tied else self.vocab_size * self.d_model
        norms = (2 * self.n_layers + 1) * self.d_model
        biases = self.n_layers * (self.n_heads + 2 * self.n_kv_heads) * self.d_head if self.qkv_bias else 0
        qk_norms = self.n_layers * 2 * self.d_head if self.qk_norm else 0
        return self.matrix_parameters() + embedding + norms + biases + qk_norms

    def weight_bytes(self, bits_per_weight: float = 16) -> float:
        """Count the bytes of all parameters at a width; block formats have fractional widths (Q4_0: 4.5)."""
        return self.parameters() * bits_per_weight / 8

    def kv_bytes_per_token(self, bytes_per_value: int = 2) -> int:
        """Count the bytes that one token adds to the KV cache, over all layers."""
        return 2 * self.n_layers * self.n_kv_heads * self.d_head * bytes_per_value

    # --- arithmetic -----------------------------------------------------------------------------------------------

    def decode_flops(self, context: int) -> int:
        """Count the FLOPs of one decode step: one token that attends over `context` tokens, itself among them."""
        # BEGIN SOLUTION ex=01.5
        products = 2 * self.matrix_parameters()
        scores_and_average = 2 * (2 * self.n_heads * self.d_head * context)  # q·k, then weights·v
        return products + self.n_layers * scores_and_average
        # END SOLUTION

    def prefill_flops(self, tokens: int, cached: int = 0, logits: int = 1) -> int:
        """Count the FLOPs of a causal prefill of `tokens` after `cached` ones, with the output head at `logits` positions."""
        return self.product_flops(tokens, logits) + self.prefill_attention_flops(tokens, cached)

    def product_flops(self, tokens: int, logits: int) -> int:
        """Count the FLOPs of the products with weights of one step: `tokens`, and the output head at `logits` positions."""
        head = 2 * self.vocab_size * self.d_model
        return tokens * (2 * self.matrix_parameters() - head) + logits * head

    def prefill_attention_flops(self, tokens: int, cached: int = 0) -> int:
        """Count the FLOPs of the attention of `tokens` new ones after `cached` ones."""
        visible = tokens * cached + tokens * (tokens + 1) // 2  # token i sees the cache and i + 1 new ones
        return self.n_layers * 4 * self.n_heads * self.d_head * visible

    def training_flops(self, tokens: int, length: int = 0) -> int:
        """Count the FLOPs of a training step over `tokens`: forward, and twice that backward (for inputs and for weights).

        length: of the sequences that the tokens come in; 0 leaves attention between them out, as estimates do.
        """
        if length:
            return 3 * (tokens // length) * self.prefill_flops(length, logits=length)
        return 3 * 2 * self.matrix_parameters() * tokens

    # --- traffic --------------------------------------------------------------------------------------------------

    def decode_bytes(
        self, context: int, batch: int = 1, bits_per_weight: float = 16, bytes_per_value: int = 2, shared: int = 0
    ) -> float:
        """Count the bytes that one decode step must read, in which each sequence of a batch gets one token.

        context: the cached tokens that each of them attends to. shared: how many of these all contexts begin with, where a
        kernel reads such a prefix once for the whole batch (Hydragen: Juravsky et al. 2024); 0 for a kernel that does not.
        bits_per_weight may be a fraction (Q4_0: 4.5), and has nothing to do with bytes_per_value, the width in the cache.

        Weights count that are factors of a product. Norms and biases are too few, and of an embedding table that is not the
        head as well a step looks up a row for each token.
        """
        # BEGIN SOLUTION ex=02.6
        weights = self.matrix_parameters() * bits_per_weight / 8
        cached = shared + batch * (context - shared)  # tokens
        return weights + cached * self.kv_bytes_per_token(bytes_per_value)
        # END SOLUTION
