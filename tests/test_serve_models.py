"""The two models of the reward server: against transformers' own processor, and BERTScore's formula."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_vlm import ENCODER_LAYER, encoder, jpeg, make_vlm, pictures

from pcpo_overlay.tools.faults import WrongArgument
from pcpo_overlay.tools.serve.bertscore import BERTScore
from pcpo_overlay.tools.serve.protocol import Request
from pcpo_overlay.tools.serve.reward import make_reward
from pcpo_overlay.tools.serve.vlm import CHAT, VLM

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> VLM:
    return VLM(str(make_vlm(tmp_path_factory.mktemp("vlm"))), CPU, tokens=8, batch=3)


@pytest.fixture(scope="module")
def scorer() -> BERTScore:
    return BERTScore(str(encoder()), CPU, ENCODER_LAYER)


def images(count: int, size: int = 64) -> list[Image.Image]:
    return [Image.fromarray(picture) for picture in pictures(count, size)]


def test_the_inputs_are_those_of_transformers_own_processor(vlm: VLM) -> None:
    from transformers import Qwen2_5_VLProcessor

    # without its part for videos, which needs torchvision
    processor = object.__new__(Qwen2_5_VLProcessor)
    processor.image_processor, processor.tokenizer = vlm.images, vlm.tokenizer
    processor.image_token, processor.video_token = "<|image_pad|>", "<|video_pad|>"
    processor.image_token_id = vlm.model.config.image_token_id
    processor.video_token_id = vlm.model.config.video_token_id
    seen, questions = (
        [*images(2), *images(1, 128)],
        ["what is this", "what is going on in this image?", "a cat?"],
    )
    texts = [CHAT.format(pads="<|image_pad|>", question=question) for question in questions]
    expected = processor(images=seen, text=texts, padding=True, return_tensors="pt")
    inputs = vlm.inputs(seen, questions)
    assert inputs.keys() == expected.keys()
    assert all(torch.equal(inputs[name], expected[name]) for name in inputs)
    assert inputs["attention_mask"][0, 0] == 0 and inputs["attention_mask"][:, -1].all(), "padded on the left"


def test_an_answer_depends_on_image_and_question_and_not_on_the_batch(vlm: VLM) -> None:
    seen = [*images(4), images(1, 128)[0]]
    questions = ["what is this", "what is going on in this image?", "a cat?", "a dog or a cat?", "a horse"]
    together = vlm.answer(seen, questions)
    assert together == [vlm.answer([i], [q])[0] for i, q in zip(seen, questions, strict=True)]
    assert len(set(vlm.answer(seen[:4], [questions[0]] * 4))) > 1
    assert len(set(vlm.answer([seen[0]] * 5, questions))) > 1


def test_an_answer_is_greedy_whatever_the_checkpoint_asks_for(vlm: VLM) -> None:
    inputs = vlm.inputs(images(1), ["what is this"])
    ids = inputs["input_ids"]
    expected = []
    with torch.inference_mode():
        for _ in range(vlm.tokens):
            grids = {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}
            logits = vlm.model(input_ids=ids, attention_mask=torch.ones_like(ids), **grids).logits[0, -1]
            expected.append(int(logits.argmax()))
            ids = torch.cat([ids, torch.tensor([[expected[-1]]])], 1)
            if expected[-1] == vlm.tokenizer.eos_token_id:
                break
    settings = vlm.model.generation_config
    settings.do_sample, settings.temperature, settings.top_k = True, 5.0, 50
    try:
        assert vlm.answer(images(1), ["what is this"]) == [
            vlm.tokenizer.decode(expected, skip_special_tokens=True).strip()
        ]
    finally:
        settings.do_sample, settings.temperature, settings.top_k = False, 1.0, 50


def test_bertscore_is_its_formula(scorer: BERTScore) -> None:
    """R = mean over the reference's tokens of the best cosine with the answer's; P the other way; F1 of both."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(encoder()), AutoModel.from_pretrained(encoder()).eval()

    def features(text: str) -> torch.Tensor:
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        return torch.nn.functional.normalize(states[ENCODER_LAYER][0], dim=-1)

    answers = ["A dog is riding a bike.", "a bear"]
    references = ["The image contains a dog riding a bike", "The image contains a cat washing dishes"]
    for answer, reference in zip(answers, references, strict=True):
        found = scorer.score(
            [answer], [reference]
        )  # the library takes a cosine below 0 for 0 beside a longer text
        cosines = features(answer) @ features(reference).T
        # the marks at both ends may be matched, but do not count
        precision = cosines.max(1).values[1:-1].mean().item()
        recall = cosines.max(0).values[1:-1].mean().item()
        assert found.precision[0] == pytest.approx(precision, abs=1e-5)
        assert found.recall[0] == pytest.approx(recall, abs=1e-5)
        assert found.f1[0] == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-5)


def test_an_answer_that_says_the_prompt_scores_higher(scorer: BERTScore) -> None:
    reference = "The image contains a dog riding a bike"
    told = ["A dog is riding a bike.", "A bear is playing chess.", "", "word " * 3000]
    good, other, empty, endless = scorer.score(told, [reference] * 4).recall
    assert good > 0.7 > 0.65 > other > empty == 0
    assert 0 < endless < good


def test_a_layer_is_found_by_the_folders_name_or_asked_for(tmp_path: Path) -> None:
    known = tmp_path / "bert-base-uncased"
    known.symlink_to(encoder())
    with pytest.raises(WrongArgument, match=r"layer 9 of .* between 0 and 6"):
        BERTScore(str(known), CPU)
    with pytest.raises(WrongArgument, match=r"no layer for .*; give --layer N"):
        BERTScore(str(encoder()), CPU)


def test_the_reward_is_nested_as_the_questions_are(vlm: VLM, scorer: BERTScore) -> None:
    two = [jpeg(picture) for picture in pictures(2)]
    queries = [["what is this", "a cat?"], ["a dog?"]]
    answers = [["The image contains a cat", "a cat"], ["The image contains a dog"]]
    reward = make_reward(vlm, scorer)
    scored = reward(Request(two, queries, answers))
    assert scored.keys() == {"outputs", "precision", "recall", "f1"}
    for rows in scored.values():
        assert [len(row) for row in rows] == [2, 1]
    said = scored["outputs"]
    assert [text for row in said for text in row][:2] == reward(Request(two[:1], queries[:1], None))[
        "outputs"
    ][0]
    flat = scorer.score([text for row in said for text in row], [text for row in answers for text in row])
    assert scored["recall"] == [flat.recall[:2], flat.recall[2:]]
    assert type(scored["recall"][0][0]) is float and type(said[0][0]) is str
