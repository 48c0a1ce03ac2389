"""A model of the hub, tiny and read from a folder, is asked as an endpoint is, and its answers are read alike."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from tests.video.scenes import record
from tests.video.test_decode import write
from tests.video.test_words import edges, story  # noqa: F401 (a fixture)
from vla.cli import run
from vla.video.chat_words import PROMPT
from vla.video.hub_words import HubWords
from vla.video.segments import MEASURED

SIDE = 32
NAMES = ["reach out", "grasp"]
SAID = json.dumps({"names": NAMES, "outcome": "success", "answer": "not visible"})
EYES = {"model_type": "clip_vision_model", "image_size": SIDE, "patch_size": 8, "hidden_size": 16}
TEXT = {"model_type": "llama", "hidden_size": 16, "vocab_size": 8, "num_key_value_heads": 2, "head_dim": 8}
SMALL = {"intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
)


def save(folder: Path, says: str | None, room: int = 4096, template: str | None = TEMPLATE) -> str:
    """Save a LLaVA with random weights, or with those of the last layer set so that its first word is `says`."""
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({says or "?": 0, "[UNK]": 1, "<image>": 2, "</s>": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="</s>", pad_token="</s>", extra_special_tokens={"image_token": "<image>"}
    )
    eyes = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    LlavaProcessor(
        eyes,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    text = TEXT | SMALL | {"max_position_embeddings": room}
    config = AutoConfig.for_model("llava", vision_config=EYES | SMALL, text_config=text, image_token_id=2)
    model = AutoModelForImageTextToText.from_config(config)
    if says is not None:
        with torch.no_grad():
            model.get_output_embeddings().weight.zero_()  # all words are as likely: the first one is said
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def telling(tmp_path_factory) -> str:
    """The folder of a model that always says SAID."""
    return save(tmp_path_factory.mktemp("telling"), SAID)


def test_it_names_judges_and_answers_from_pictures_under_the_prompts_of_an_endpoint(telling, story, monkeypatch):  # noqa: F811
    words, few = HubWords(telling, max_tokens=1), replace(story, segments=story.segments[:2])
    ask = words._chat._ask
    asked, shown, template = [], [], ask._processor.apply_chat_template
    monkeypatch.setattr(
        ask._processor, "apply_chat_template", lambda said, **how: asked.append(said) or template(said, **how)
    )
    ask._model.model.vision_tower.register_forward_hook(lambda module, given, out: shown.append(len(given[0])))
    assert words._chat.ask("one two") == SAID and asked.pop()  # without what was asked
    named = words.name(few)
    assert [part.label for part in named] == NAMES and edges(named) == edges(few.segments)
    assert {part.source for part in named} == {words.identity}
    assert words.judge(story).label == "success" and not words.answer(story, "what?", [0.0]).problem
    pictures = [[part["image"] for part in said[0]["content"] if part["type"] == "image"] for said in asked]
    assert len(asked) == 3 and [len(own) for own in pictures] == shown
    assert asked[0][0]["content"][-1]["text"].startswith(PROMPT.partition("{task}")[0])
    assert asked[0][0]["content"][-1]["text"].count(json.dumps(story.item.task)) == 1


def test_what_a_random_model_says_is_no_name(story, tmp_path):  # noqa: F811
    words = HubWords(save(tmp_path, None), max_tokens=4)
    named = words.name(story)
    assert edges(named) == edges(story.segments) and {part.source for part in named} == {MEASURED}
    assert all(part.problem.startswith("not named: ") for part in named) and named == words.name(story)


def test_a_question_that_is_too_long_for_the_model_is_recorded_as_such(story, tmp_path):  # noqa: F811
    (problem,) = {part.problem for part in HubWords(save(tmp_path, SAID, room=64)).name(story)}
    assert "the answer may have 512: too many for it" in problem


def test_the_identity_changes_with_the_weights(telling, tmp_path):
    other = save(tmp_path / Path(telling).name, None)
    assert HubWords(telling).identity == HubWords(telling).identity != HubWords(other).identity


def test_a_model_that_was_not_taught_to_chat_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no chat template: choose a model that was taught"):
        HubWords(save(tmp_path, SAID, template=None))


def test_the_command_line_asks_it(telling, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.mp4", record(1, discs=1).frames)
    model = [f"vlm.model={telling}", "vlm.max_tokens=1"]
    assert run(["analyze", "path=a.mp4", "vlm=hub", *model, "ask=what is it?", "out=done"]) == 0
    (item,) = json.loads(Path("done/result.json").read_text())["items"]
    assert item["outcome"]["label"] == "success" and item["qa"]["answers"][0]["source"].startswith("telling")
    assert run(["analyze", "path=a.mp4", "vlm=hub"]) == 1
    assert "vlm=hub needs vlm.model=" in capsys.readouterr().err
