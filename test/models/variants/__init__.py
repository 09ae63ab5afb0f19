"""Variants of tiny.TINY, a file for each kind of models."""

COMMON = dict(
    vocab_size=131,
    hidden_size=60,
    intermediate_size=76,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=256,
    rms_norm_eps=3e-3,
    rope_parameters=dict(rope_type="default", rope_theta=500.0),
)


def rope(rope_type, **parameters):
    """Scaled rotary embedding, with so many pairs of dimensions that some are scaled and some are not."""
    return dict(head_dim=20, rope_parameters=dict(rope_type=rope_type, rope_theta=300.0, **parameters))
