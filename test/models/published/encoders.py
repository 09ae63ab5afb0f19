"""Names and shapes of the tensors of encoders, as layers.py has them of decoders."""

from models.published.parts import repeated


def _biased(name: str, rows: int, columns: int) -> dict:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _layer_norm(name: str, size: int) -> dict:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def encoder(config, prefix=""):
    hidden, size = config["hidden_size"], config["intermediate_size"]

    def layer(_):
        found = {}
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            found |= _biased(name, hidden, hidden)
        found |= _biased("intermediate.dense", size, hidden) | _biased("output.dense", hidden, size)
        return found | _layer_norm("attention.output.LayerNorm", hidden) | _layer_norm("output.LayerNorm", hidden)

    rows = dict(word_embeddings="vocab_size", position_embeddings="max_position_embeddings")
    rows |= dict(token_type_embeddings="type_vocab_size")
    found = {f"{prefix}embeddings.{name}.weight": (config[key], hidden) for name, key in rows.items()}
    found |= _layer_norm(f"{prefix}embeddings.LayerNorm", hidden)
    return found | repeated(config, f"{prefix}encoder.layer", layer)


def xlm_roberta_classifier(config):
    hidden, classes = config["hidden_size"], len(config["id2label"])
    head = _biased("classifier.dense", hidden, hidden) | _biased("classifier.out_proj", classes, hidden)
    return encoder(config, "roberta.") | head


def pooler(config):
    return _biased("pooler.dense", config["hidden_size"], config["hidden_size"])


def pooler_and_positions(config):
    return pooler(config) | {"embeddings.position_ids": (1, config["max_position_embeddings"])}


ARCHITECTURES = dict(
    BertModel=encoder,
    XLMRobertaForSequenceClassification=xlm_roberta_classifier,
    XLMRobertaModel=encoder,
)
