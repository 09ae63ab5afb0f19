"""Embeddings, classes, rankings and scores through SGLang's Engine and endpoints, against transformers."""

import json

import numpy as np
import openai
import pytest
import torch
from models import pooled, tiny
from safetensors.torch import save_file
from tiers import SLOW
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

SECONDS = 40, 60
YES, NO = 17, 101
IDENTITY = "torch.nn.modules.linear.Identity"
WORDS = {f"w{number}": number for number in range(tiny.COMMON["vocab_size"])}
WORDS = {**{word: number for word, number in WORDS.items() if number not in (YES, NO)}, "yes": YES, "no": NO}
# What SGLang tells a reranker by, and then the query and the document.
RERANKER = 'answer can only be "yes" or "no" {{ messages[0]["content"] }} {{ messages[1]["content"] }}'
QUERY = "w5 w80 w33"
TEXTS = ["w1 w2 w3", "w99", " ".join(f"w{number}" for number in range(20, 70))]


def ids(text: str) -> list[int]:
    return [WORDS.get(word, 0) for word in text.split()]


def write_tokenizer(folder, **settings):
    words = Tokenizer(WordLevel(WORDS, unk_token="w0"))
    words.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", **settings).save_pretrained(folder)
    return folder


def checkpoint(tmp_path_factory, architecture, **config):
    return write_tokenizer(pooled.save(architecture, tmp_path_factory.mktemp(architecture), **config))


def sentence_transformers(folder, pooling):
    """The files beside a checkpoint that ask for this pooling, and for a product behind it; returns its weight."""
    weight = torch.from_numpy(np.random.default_rng(3).standard_normal((7, 60), np.float32))
    configs = {
        "1_Pooling": dict(pooling_mode=pooling),
        "2_Dense": dict(in_features=60, out_features=7, bias=False, activation_function=IDENTITY),
    }
    for name, config in configs.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    save_file({"linear.weight": weight}, folder / "2_Dense/model.safetensors")
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
    modules = [dict(path=path, type=f"sentence_transformers.models.{kind}") for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    return weight


def answers(architecture, texts=TEXTS) -> torch.Tensor:
    return torch.stack([pooled.answer(architecture, ids(text)) for text in texts])


def assert_near(found, wanted):
    torch.testing.assert_close(torch.as_tensor(found), wanted, atol=1e-4 * float(wanted.abs().max()), rtol=0)


def test_engine_encodes_in_chunks_and_behind_cached_prefixes(start_engine, tmp_path_factory):
    engine = start_engine(checkpoint(tmp_path_factory, "MistralModel"), chunked_prefill_size=16, max_total_tokens=96)
    for texts in (TEXTS, TEXTS, [TEXTS[2] + " w7"]):
        with pytest.raises(ValueError, match="95 tokens"):  # it would wait for ever, and all behind it
            engine.encode("w7 " * 95)
        found = engine.encode(texts)
        assert_near([one["embedding"] for one in found], answers("MistralModel", texts))
    assert found[0]["meta_info"]["prompt_tokens"] == 51


def mean_of_xlm_roberta(text, weight):
    with torch.no_grad():
        states = pooled.model("XLMRobertaModel").encoder(torch.tensor([ids(text)])).last_hidden_state[0]
    return torch.nn.functional.normalize(weight @ states.mean(0), dim=0)


def test_an_encoder_is_pooled_as_sentence_transformers_files_say(start_engine, tmp_path_factory):
    """In one step a prompt, whatever chunks are asked for, and as far as its positions were learned."""
    folder = checkpoint(tmp_path_factory, "XLMRobertaModel")
    weight = sentence_transformers(folder, "mean")
    engine = start_engine(folder, chunked_prefill_size=16)
    for texts in (TEXTS, [TEXTS[2] + " w7", *TEXTS]):
        found = engine.encode(texts)
        wanted = torch.stack([mean_of_xlm_roberta(text, weight) for text in texts])
        assert_near([one["embedding"] for one in found], wanted)
    with pytest.raises(ValueError, match="251"):  # 256 positions, of which 5 are not for tokens
        engine.encode("w7 " * 252)


class TestCrossEncoder:
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, serve, tmp_path_factory):
        return serve(checkpoint(tmp_path_factory, "BertForSequenceClassification", num_labels=1))

    def test_rerank_orders_documents_by_the_score_of_the_pair(self, server):
        found = server.post("/v1/rerank", {"query": QUERY, "documents": TEXTS}).json()
        wanted = []
        for text in TEXTS:
            query, document = ids(QUERY), ids(text)
            types = [0] * len(query) + [1] * len(document)
            wanted.append(pooled.answer("BertForSequenceClassification", query + document, types, num_labels=1))
        wanted = torch.stack(wanted)
        order = wanted.argsort(descending=True).tolist()
        assert [one["index"] for one in found] == order
        assert_near([one["score"] for one in found], wanted[order])

    def test_a_text_by_itself_is_scored_too(self, server):
        (found,) = server.post("/classify", {"text": TEXTS[:1]}).json()
        wanted = pooled.answer("BertForSequenceClassification", ids(TEXTS[0]), num_labels=1)
        assert_near(found["embedding"], wanted)


class TestEmbeddings:
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls, serve, tmp_path_factory):
        """Qwen3-Embedding: the architecture generates, the checkpoint is the decoder alone."""
        folder = checkpoint(
            tmp_path_factory,
            "Qwen3Model",
            architectures=["Qwen3ForCausalLM"],
            is_matryoshka=True,
            matryoshka_dimensions=[8, 60],
        )
        server = serve(folder, "--is-embedding")
        return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")

    def test_they_are_transformers_hidden_states_normalized(self, client):
        found = client.embeddings.create(model="default", input=TEXTS)
        assert_near([one.embedding for one in found.data], answers("Qwen3Model"))
        assert found.usage.prompt_tokens == 54

    def test_they_are_cut_to_the_dimensions_that_the_config_allows(self, client):
        found = client.embeddings.create(model="default", input=TEXTS, dimensions=8, encoding_format="float")
        cut = torch.nn.functional.normalize(answers("Qwen3Model")[:, :8])
        assert_near([one.embedding for one in found.data], cut)
        with pytest.raises(openai.BadRequestError, match="only supports"):
            client.embeddings.create(model="default", input=TEXTS, dimensions=9)

    @pytest.mark.parametrize(
        "given, reason",
        [
            ([5, 131], "a token is from 0 to 130"),
            ([[5], [131]], "a token is from 0 to 130"),
            ([[5], []], "The prompt has no tokens"),
            (["w5", "w5 " * 400], "longer than the model's context length"),
        ],
    )
    def test_what_cannot_be_embedded_is_the_clients_error(self, client, given, reason):
        with pytest.raises(openai.BadRequestError, match=reason):
            client.embeddings.create(model="default", input=given)

    def test_to_generate_is_the_clients_error(self, client):
        with pytest.raises(openai.BadRequestError, match="generates no text"):
            client.completions.create(model="default", prompt="w1 w2")
        found = client.embeddings.create(model="default", input=TEXTS[:1])
        assert_near([one.embedding for one in found.data], answers("Qwen3Model", TEXTS[:1]))


class TestClassifier:
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, serve, tmp_path_factory):
        """Scores several places of a text, for which SGLang wants whole prompts in one step."""
        setwise = ("--disable-radix-cache", "--chunked-prefill-size", "-1", "--mem-fraction-static", "0.5")
        return serve(checkpoint(tmp_path_factory, "Qwen3ForSequenceClassification"), *setwise)

    def test_classify_gives_logits_and_v1_classify_labels(self, server):
        wanted = answers("Qwen3ForSequenceClassification")
        found = server.post("/classify", {"text": TEXTS}).json()
        assert_near([one["embedding"] for one in found], wanted)
        found = server.post("/v1/classify", {"model": "m", "input": TEXTS}).json()["data"]
        assert_near([one["probs"] for one in found], wanted.softmax(-1))
        assert [one["label"] for one in found] == [f"LABEL_{row.argmax()}" for row in wanted]

    def test_score_gives_each_classs_probability(self, server):
        body = {"model": "m", "query": QUERY + " ", "items": TEXTS, "apply_softmax": True}
        wanted = answers("Qwen3ForSequenceClassification", [f"{QUERY} {text}" for text in TEXTS])
        assert_near(server.post("/v1/score", body).json()["scores"], wanted.softmax(-1))

    def test_rerank_orders_documents_by_the_score_of_the_first_class(self, server):
        found = server.post("/v1/rerank", {"query": QUERY, "documents": TEXTS}).json()
        wanted = answers("Qwen3ForSequenceClassification", [f"{QUERY} {text}" for text in TEXTS])[:, 0]
        order = wanted.argsort(descending=True).tolist()
        assert [one["index"] for one in found] == order
        assert_near([one["score"] for one in found], wanted[order])
        body = {"query": QUERY, "documents": TEXTS, "top_n": 1, "return_documents": False}
        (best,) = server.post("/v1/rerank", body).json()
        assert (best["index"], best["score"], "document" in best) == (order[0], pytest.approx(found[0]["score"]), False)

    def test_hidden_states_are_those_that_were_scored(self, server):
        body = {"model": "m", "query": QUERY + " ", "items": TEXTS[:2], "return_pooled_hidden_states": True}
        decoder = pooled.model("Qwen3ForSequenceClassification").classifier.model
        with torch.no_grad():
            prompts = [torch.tensor([ids(f"{QUERY} {text}")]) for text in TEXTS[:2]]
            wanted = torch.cat([decoder(prompt).last_hidden_state[:, -1] for prompt in prompts])
        assert_near(server.post("/v1/score", body).json()["pooled_hidden_states"], wanted)

    def test_each_place_of_a_token_gets_scores(self, server):
        items = ["w2 w9 w5 w9", "w9 w4"]
        body = {"model": "m", "query": QUERY + " ", "items": items, "score_extraction_token": "w9"}
        first, second = server.post("/v1/score", body).json()["scores"]
        upto = [f"{QUERY} {text}" for text in ("w2 w9", "w2 w9 w5 w9", "w9")]
        assert_near([*first, *second], answers("Qwen3ForSequenceClassification", upto))

    @pytest.mark.parametrize(
        "path, body, reason",
        [
            ("/generate", {"text": "w1"}, "generates no text"),
            ("/encode", {"text": "w1", "dimensions": 2}, "matryoshka"),
            (
                "/v1/score",
                dict(query=[1], items=[[9]], embed_override_token_id=9, item_embed_overrides=[[[0.0] * 60]]),
                "positional_embed_overrides is not supported",
            ),
        ],
    )
    def test_what_it_does_not_do_is_the_clients_error(self, server, path, body, reason):
        answer = server.post(path, {"model": "m", **body})
        assert (answer.status_code, reason in answer.text) == (400, True), answer.text
        (found,) = server.post("/classify", {"text": TEXTS[:1]}).json()
        assert_near([found["embedding"]], answers("Qwen3ForSequenceClassification", TEXTS[:1]))


@SLOW
class TestReranker:
    """Qwen3-Reranker: a generating model whose probabilities of yes and no are the score."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, serve, tmp_path_factory):
        folder = tiny.save("qwen3", tmp_path_factory.mktemp("reranker"))
        return serve(write_tokenizer(folder, chat_template=RERANKER))

    def test_rerank_orders_documents_by_yes_over_no(self, server):
        found = server.post("/v1/rerank", {"query": QUERY, "documents": TEXTS}).json()
        prompts = [f'answer can only be "yes" or "no" {QUERY} {text}' for text in TEXTS]
        logits = torch.stack([last_logits(prompt) for prompt in prompts])
        wanted = (logits[:, YES] - logits[:, NO]).sigmoid()
        order = wanted.argsort(descending=True).tolist()
        assert [one["index"] for one in found] == order
        assert_near([one["score"] for one in found], wanted[order])

    def test_score_gives_probabilities_of_tokens(self, server):
        labels = [3, YES, 130]
        body = {"model": "m", "query": QUERY + " ", "items": TEXTS, "label_token_ids": labels}
        wanted = torch.stack([last_logits(f"{QUERY} {text}").softmax(-1)[labels] for text in TEXTS])
        assert_near(server.post("/v1/score", body).json()["scores"], wanted)

    def test_score_compares_each_items_own_tokens(self, server):
        body = {"model": "m", "query": QUERY, "items": [f"{text} " for text in TEXTS[:2]], "item_first": True}
        body |= {"label_token_ids": [[3, YES], [130, NO, 4]], "apply_softmax": True, "temperature": 0.5}
        found = server.post("/v1/score", body).json()["scores"]
        for text, labels, scores in zip(TEXTS[:2], body["label_token_ids"], found, strict=True):
            assert_near(scores, (last_logits(f"{text} {QUERY}")[labels] / 0.5).softmax(-1))

    @pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/classify"])
    def test_to_embed_is_the_clients_error(self, server, path):
        answer = server.post(path, {"model": "m", "input": "w1"})
        assert (answer.status_code, "--is-embedding" in answer.text) == (400, True)


def last_logits(text: str) -> torch.Tensor:
    return torch.from_numpy(tiny.reference_logits("qwen3", ids(text))[-1])
