"""The stages of a decoder layer: linears that share an input, in the order in which data passes."""

from onebit.models.layer import Layer
from onebit.ptq.method import Stage

QKV, OUT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj"
GATE_UP, DOWN = ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"


def stages(layer: Layer) -> tuple[Stage, ...]:
    """Return the stages of a layer."""
    extra = hasattr(layer, "pre_feedforward_layernorm")  # Gemma's; the usual name is another's
    mlp_norm = "pre_feedforward_layernorm" if extra else "post_attention_layernorm"
    return (
        Stage("qkv", QKV, "input_layernorm"),
        Stage("o", (OUT,), "self_attn.v_proj"),
        Stage("gate_up", GATE_UP, mlp_norm),
        Stage("down", (DOWN,), "mlp.up_proj"),
    )


def linears(layer: Layer) -> list[str]:
    """Return the names of a layer's linears, in the order in which data passes."""
    return [name for stage in stages(layer) for name in stage.linears]
