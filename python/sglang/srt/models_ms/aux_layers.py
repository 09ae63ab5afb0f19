"""Which hidden states of its target a draft of EAGLE3 reads."""


def aux_layers(layers: int, layer_ids: list[int] | None) -> list[int]:
    """The layers before which they go out, of a target of so many; the number of layers: behind the last one.

    layer_ids: of `eagle_aux_hidden_state_layer_ids`: the layers behind which they go out, or where the number of layers
    is among them, those before which. None: SGLang's default.
    """
    if layer_ids is None:
        return [2, layers // 2, layers - 3]
    before = max(layer_ids, default=0) == layers
    return list(layer_ids) if before else [layer + 1 for layer in layer_ids]
