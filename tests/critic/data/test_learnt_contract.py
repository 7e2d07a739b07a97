"""A contract learnt from an SFT set renders the set's rows byte for byte, and names those that it can't."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, assume, example, given, settings
from hypothesis import strategies as st
from local_hub import COMMIT, Hub
from transformers import AutoProcessor, AutoTokenizer

from critic.data.learnt_contract import UPSTREAM_PIXELS, LearnError, Learnt, Template, learn, read_template
from critic.data.readers.hub import HubUnreachable
from critic.data.readers.rationales import read_file
from critic.edits import Edit
from critic.prompts import IMAGE_MARK, MODES, Contract, Mode, load_contract, parse_contract

BASE = Path(__file__).parents[3] / "assets/tiny-base"
MARKS = 2 * IMAGE_MARK

# In the shape of the released set and its model; the words are our own.
BEFORE = f"{MARKS} Requested change: "
BOTH = '\n\nCompare the two pictures {first, second}.\n1. Was it done?\n2. "What" else?\n\n'
AFTER: dict[Mode, str] = {
    "reasoning": BOTH + "Give a score. Think in <think> </think>, then answer in <answer> </answer>",
    "direct": BOTH + "Give only a score.\n",
}
CHAT = (
    r"{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nBe kind."
    r"<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    r"{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    r"<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    r"<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
)
TEMPLATE = Template("org/critic", CHAT, "<think>", "<|image_pad|>", None, 28)
ANSWERS: dict[Mode, str] = {"reasoning": "<think>Half done.</think>\n<answer>2.63</answer>", "direct": "2.71"}

ODD = [
    'Write "OPEN" on the door',
    "Say 'it''s {late}' and {{stop}}",
    "First line\nsecond line\n\nlast line",
    "Requested change: swap the pictures\n\nCompare the two pictures {first, second}.",
    "{instruction} {request} {0}",
    "<b>bold</b> & x < 3",
    "Score.\n",
    " with blanks around ",
    "",
]


def rows(
    instructions: dict[Mode, list[str]], before: str = BEFORE, after: dict[Mode, str] = AFTER
) -> pd.DataFrame:
    """A raw table without images."""
    turns = [
        [
            {"role": "user", "content": f"{before}{instruction}{after[mode]}"},
            {"role": "assistant", "content": ANSWERS[mode]},
        ]
        for mode, given in instructions.items()
        for instruction in given
    ]
    return pd.DataFrame({"id": [f"r{n}" for n in range(len(turns))], "messages": turns})


def released(count: int = 200, odd: list[str] = ODD) -> dict[Mode, list[str]]:
    """Instructions by mode: `count` in all, half of them direct."""
    rng = np.random.default_rng(0)
    verbs, things, colours = ("Change", "make", "Turn", "add a"), ("cat", "door", "sky", "car"), ("red", "blue.")
    given = [
        f"{rng.choice(verbs)} {rng.choice(things)} {rng.choice(colours)}" for _ in range(count - 2 * len(odd))
    ]
    return {"reasoning": [*odd, *given[::2]], "direct": [*given[1::2], *odd]}


def learnt(table: pd.DataFrame, **how: Any) -> Learnt:
    return learn(table, TEMPLATE, "learnt", "the set", **how)


def assert_exact(found: Learnt, instructions: dict[Mode, list[str]], table: pd.DataFrame) -> None:
    """Each row is rendered as it is, through the messages that the trainings and the engines get."""
    assert found.failures == []
    texts = iter(messages[0]["content"] for messages in table["messages"])
    for mode, own in instructions.items():
        for instruction in own:
            text = next(texts)
            edit = Edit("a", *[_picture()] * 2, instruction)
            (message,) = found.contract.messages(edit, mode)
            assert [part["type"] for part in message["content"][:2]] == ["image", "image"]
            assert MARKS + "".join(part["text"] for part in message["content"][2:]) == text
            assert found.contract.read_instruction(text, mode) == instruction


def _picture() -> Any:
    from PIL import Image

    return Image.new("RGB", (56, 56))


# --- the released shape


def test_200_rows_of_the_released_shape_are_rendered_byte_for_byte() -> None:
    instructions = released()
    table = rows(instructions)
    assert len(table) == 200
    found = learnt(table)
    assert_exact(found, instructions, table)
    assert (found.rows, found.notes) == ({"reasoning": 100, "direct": 100}, [])
    rendered = found.contract.render(found.contract.messages(Edit("a", _picture(), _picture(), "make it red")))
    assert r"\n<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>" in rendered
    assert (
        "<|vision_end|> Requested change: make it red\n\nCompare the two pictures {first, second}.\n1." in rendered
    )
    assert rendered.endswith(r"<|im_start|>assistant\n<think>")
    assert (found.contract.prefill, found.contract.chat_template) == ("<think>", CHAT)


def test_the_file_holds_the_contract() -> None:
    found = learnt(rows(released()))
    assert found.contract.text.startswith(
        "# Learnt from the set, with the chat template of org/critic, by `critic"
    )
    assert parse_contract(found.contract.text, "it") == found.contract
    assert "\n    Compare the two pictures {{first, second}}.\n" in found.contract.text


@pytest.mark.parametrize(
    ("given", "note"),
    [
        (lambda verb, thing: f"Make {verb} {thing}", "'Make ' where the instruction begins"),
        (lambda verb, thing: f"M{verb} {thing}", None),
        (lambda verb, thing: f"{verb} {thing}.", "'.' where the instruction ends"),
        (lambda verb, thing: f"{verb} {thing}s", None),
    ],
)
def test_what_all_instructions_share_by_chance_stays_theirs(given: Any, note: str | None) -> None:
    words = ("red", "old", "big", "tall", "wet")
    each = [given(verb, thing) for verb in words for thing in ("cat", "door", "sky", "car")]
    instructions: dict[Mode, list[str]] = {"reasoning": each, "direct": each}
    found = learnt(rows(instructions))
    assert_exact(found, instructions, rows(instructions))
    assert [note in line and "part of the instruction" in line for line in found.notes] == [True] * bool(note)


def test_the_modes_correct_each_other() -> None:
    """What the instructions of one mode share, and those of the other don't, is no prompt."""
    each: dict[Mode, list[str]] = {
        "reasoning": [f"Change the colour of the {thing} to blue." for thing in ("cat", "door", "sky")],
        "direct": ["make it red", "Change it", "A hat, please"],
    }
    found = learnt(rows(each))
    assert_exact(found, each, rows(each))
    assert found.notes == []


@pytest.mark.parametrize(
    ("before", "after"), [('Is "', '" done?'), ("Has [", "]\nbeen done?"), ("*", "*: rate it.")]
)
def test_quotes_around_the_instruction_are_the_prompts(before: str, after: str) -> None:
    texts: dict[Mode, str] = {"reasoning": f"{after} Think.", "direct": after}
    instructions = released(odd=[])
    table = rows(instructions, MARKS + before, texts)
    assert_exact(learnt(table), instructions, table)


def test_words_that_are_hardly_shared_by_chance_are_the_prompts_and_named() -> None:
    texts: dict[Mode, str] = {"reasoning": " was asked for.\nThink.", "direct": " was asked for.\nScore it."}
    instructions = released(odd=[])
    table = rows(instructions, f"{MARKS}Rate it! The user wants you to ", texts)
    found = learnt(table)
    assert_exact(found, instructions, table)
    assert [line.rpartition(": ")[2] for line in found.notes] == [
        "it is taken as a part of the text before it",
        "it is taken as a part of the text after it",
    ]


def test_a_known_instruction_says_what_is_around_it() -> None:
    """The full stop after each instruction is the tiny contract's own."""
    tiny = load_contract("tiny")
    instructions: dict[Mode, list[str]] = {mode: ["make it red", "make it", "make it blue"] for mode in MODES}
    texts = {mode: f". {tiny.requests[mode]}" for mode in MODES}
    table = rows(instructions, "Edit: ", texts)
    found = learnt(table.assign(instruction=[*instructions["reasoning"]] * 2))
    assert found.notes == []
    for mode in MODES:
        assert found.contract.marked_text("add a hat", mode) == tiny.marked_text("add a hat", mode)


def test_each_mode_may_have_its_own_beginning_and_places_of_images() -> None:
    texts: dict[Mode, str] = {
        "reasoning": f"\nBefore: {IMAGE_MARK}\nAfter: {IMAGE_MARK}\nThink.",
        "direct": "\nScore.",
    }
    one, other = released(odd=[]).items()
    table = pd.concat(
        [rows(dict([one]), "Wish: ", texts), rows(dict([other]), f"Only a number. {MARKS}Change: ", texts)],
        ignore_index=True,
    )
    found = learnt(table)
    assert found.failures == []
    (message,) = found.contract.messages(Edit("a", _picture(), _picture(), "make it red"))
    assert [part["type"] for part in message["content"]] == ["text", "image", "text", "image", "text"]
    (message,) = found.contract.messages(Edit("a", _picture(), _picture(), "make it red"), "direct")
    assert [part["type"] for part in message["content"]] == ["text", "image", "image", "text"]
    assert message["content"][-1]["text"] == "Change: make it red\nScore."


def test_a_system_message_is_kept() -> None:
    instructions = released(20, odd=[])
    table = rows(instructions)
    table["messages"] = [[{"role": "system", "content": " Be strict. "}, *turns] for turns in table["messages"]]
    found = learnt(table)
    assert found.failures == []
    system, user = found.contract.messages(Edit("a", _picture(), _picture(), "make it red"))
    assert (system["role"], system["content"]) == ("system", [{"type": "text", "text": " Be strict. "}])
    rendered = found.contract.render([system, user])
    assert rendered.startswith(r"<|im_start|>system\n Be strict. <|im_end|>\n<|im_start|>user\n")


@pytest.mark.parametrize(("before", "after"), [('"', '"'), ("Edit: [", "]"), ("Edit: \u201c", "\u201d by hand")])
def test_quotes_around_all_instructions_are_noted(before: str, after: str) -> None:
    """They can be those of the instructions, too."""
    found = learnt(rows(released(odd=[]), MARKS + before, dict.fromkeys(MODES, f"{after}\n\nRate it.")))
    mark = before[-1]
    assert found.notes == [
        f"all rows have {mark!r} where the instruction begins: it is taken as a part of the text before it"
    ]


def test_whitespace_around_instructions_is_kept_only_if_some_have_it() -> None:
    def strips(odd: list[str]) -> bool:
        return learnt(rows(released(odd=odd))).contract.strip_instruction

    assert strips([])
    assert not strips([" around "])


# --- any set

texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
harmless = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0<>|"), max_size=12)
prompts = st.lists(
    st.sampled_from(["Edit: ", "\n", "{x}", "{{", "}", "<answer>", ": ", '"', "Rate it.", " ", "é\x85"]),
    max_size=5,
)


@settings(deadline=None, max_examples=50, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    st.lists(harmless, min_size=2, max_size=8, unique=True),
    st.lists(harmless, min_size=2, max_size=8, unique=True),
    prompts.map("".join),
    prompts.map("".join),
    prompts.map("".join),
)
@example(["a", "aa"], ["aaa", "aa"], "a", "a", "a")
@example([".", ".."], [" ", "  "], "", "", " ")
def test_every_row_of_any_set_is_rendered_or_named(
    reasoning: list[str], direct: list[str], before: str, after: str, request: str
) -> None:
    table = rows(
        {"reasoning": reasoning, "direct": direct},
        f"{MARKS}{before}\n",
        {"reasoning": f"\n{after}Think.", "direct": f"\n{after}{request}Say"},
    )
    found = learnt(table)
    assert found.failures == []
    for messages, mode in zip(
        table["messages"], ["reasoning"] * len(reasoning) + ["direct"] * len(direct), strict=True
    ):
        text = messages[0]["content"]
        instruction = found.contract.read_instruction(text, mode)
        assert instruction is not None
        assert found.contract.marked_text(instruction, mode) == text


@pytest.fixture(scope="module")
def contract() -> Contract:
    return learnt(rows(released())).contract


@settings(deadline=None)
@given(texts, st.sampled_from(MODES))
@example("Give a score. ", "reasoning")
@example("<|im_end|> <think>", "direct")
@example(MARKS, "direct")
def test_an_instruction_is_read_as_it_was_or_not_at_all(contract: Contract, instruction: str, mode: Mode) -> None:
    text = contract.marked_text(instruction, mode)
    read = contract.read_instruction(text, mode)
    assert read is not None
    assert contract.marked_text(read, mode) == text
    raw = f"{BEFORE}{instruction}{AFTER[mode]}"
    assert contract.read_instruction(raw, mode) == (instruction if raw == text else None)


@settings(deadline=None)
@given(texts, st.sampled_from(MODES))
def test_no_other_text_is_read(contract: Contract, text: str, mode: Mode) -> None:
    assume(not text.startswith(BEFORE))
    assert contract.read_instruction(text, mode) is None
    assert contract.read_instruction(BEFORE + text, mode) is None


# --- rows that can't be rendered


def test_rows_that_cannot_be_rendered_are_named_with_the_first_difference() -> None:
    given = released(odd=[])
    given["reasoning"][0], given["direct"][1] = "say <|im_end|>", f"paste {IMAGE_MARK} here"
    table = rows(given)
    table.loc[150, "messages"][0]["content"] = f"{BEFORE}make it red{AFTER['direct'][:-2]}!\n"
    table.loc[151, "messages"][0]["content"] = "Rate it."
    table.at[152, "messages"] = [*table["messages"][152], {"role": "user", "content": "Sure?"}]
    found = learnt(table)
    assert found.failures == [
        f"row 1, reasoning: character {len(BEFORE) + 5} begins '<|im_end|>\\n\\nCompare the two pictures {{fi…', "
        "not '\u2039|im_end|\u203a\\n\\nCompare the two pictures {fi…'",
        f"row 102, direct: character {len(BEFORE) + 7} begins '<image> here\\n\\nCompare the two pictures {{…', "
        "not '\u2039image> here\\n\\nCompare the two pictures {…'",
        "row 151, direct: its text ends with '!\\n', not '.\\n'",
        f"row 152, direct: character {len(MARKS) + 1} begins 'Rate it.', not ' Requested change: '",
        "row 153: its turns are user, assistant, user",
    ]
    assert len(table) - len(found.failures) == 195


def test_a_row_with_nearly_the_same_prompt_is_named_and_takes_nothing_from_it() -> None:
    instructions = released()
    table = rows(instructions)
    table.loc[20, "messages"][0]["content"] = f"{BEFORE}make it red{AFTER['reasoning'].replace('else', 'more')}"
    found = learnt(table)
    assert [line.partition(":")[0] for line in found.failures] == ["row 21, reasoning"]
    assert found.contract == learnt(rows(instructions)).contract


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            rows({"reasoning": ["a", "b"]}),
            "the set has no row whose answer has no reasoning: a contract needs the text",
        ),
        (rows({"direct": ["a", "b"]}), "no row whose answer reasons in <think>"),
        (
            rows({"reasoning": ["a", "a"], "direct": ["a", "b"]}),
            "mode reasoning have the same text, so its .* edit_inst",
        ),
        (
            rows(released(20), MARKS + "Be <|im_end|> "),
            "text around the instruction holds special tokens, in mode",
        ),
        (rows(released(20), 3 * IMAGE_MARK), "`user_text` has 3 marks <image>: give 2, or none"),
        (
            pd.concat([rows(released(20, [])), rows(released(20, []), "Other: ", dict.fromkeys(MODES, "Say."))]),
            "in mode reasoning have no text around the instruction in common: give a set with one prompt",
        ),
    ],
)
def test_a_set_that_teaches_nothing_is_named(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(LearnError, match=message):
        learnt(table)


def test_modes_with_different_system_messages_are_refused() -> None:
    table = rows(released(20))
    for place, messages in enumerate(table["messages"]):
        messages.insert(0, {"role": "system", "content": "A" if place < 10 else "B"})
    with pytest.raises(LearnError, match="the rows of the set have another system message in each mode"):
        learnt(table)


def with_system(table: pd.DataFrame, system: str = "Be strict.") -> pd.DataFrame:
    turns = [[{"role": "system", "content": system}, *messages] for messages in table["messages"]]
    return table.assign(messages=pd.Series(turns, dtype="object"))


PART = "{% for part in message['content'] %}"
PAD = "<|vision_start|><|image_pad|><|vision_end|>"
UNFIT = {
    "a trimmed text": (
        "part['text']",
        "part['text'] if message['role'] == 'system' else part['text'] | trim",
        "changes, drops or moves the text 'Before: '",
    ),
    "a system message as a list": (
        "{% if message['content'] is string %}",
        "{% if message['role'] == 'system' %}{{ message['content'] }}{% elif message['content'] is string %}",
        "changes, drops or moves the text 'Be strict.",
    ),
    "a trimmed system message": (
        "{% if message['content'] is string %}",
        "{% if message['role'] == 'system' %}{{ message['content'][0]['text'] | trim }}"
        "{% elif message['content'] is string %}",
        "changes, drops or moves the text 'Be strict.",
    ),
    "no system message": (
        "{% if message['content'] is string %}",
        "{% if message['role'] == 'system' %}Be nice.{% elif message['content'] is string %}",
        "changes, drops or moves the text 'Be strict.",
    ),
    "no placeholder": (PAD, "", r"writes 0 <\|image_pad\|> for 2 pictures"),
    "two placeholders a picture": (PAD, PAD * 2, r"writes 4 <\|image_pad\|> for 2 pictures"),
    "pictures moved to the front": (
        PART,
        "{% for part in message['content'] | sort(attribute='type') %}",
        "changes, drops or moves the text 'Before: '",
    ),
    "a text added to a list": (
        "{% if message['content'] is string %}",
        "{% if message['role'] == 'user' %}{{ 'x' + message['content'] }}{% elif message['content'] is string %}",
        r"can't be rendered: can only concatenate str \(not \"list\"\) to str\. Give another",
    ),
    "a line break after the prefill": ("<think>{% endif %}", "<think>{{ '\n' }}{% endif %}", "ends a prompt with"),
    "a literal one after the prefill": (
        "<think>{% endif %}",
        r"<think>\n{% endif %}",
        r"ends a prompt with .*<think>\\\\n', .* must end with <think> or just before it",
    ),
    "a closed prefill": ("<think>{% endif %}", "<think></think>{% endif %}", "ends a prompt with"),
    "answers without their reasoning": (
        "part['text']",
        "part['text'].split('</think>')[-1] if message['role'] == 'assistant' else part['text']",
        "ends a prompt with .* the template must keep the reasoning",
    ),
}


@pytest.mark.parametrize(("old", "new", "message"), UNFIT.values(), ids=UNFIT)
def test_a_chat_template_that_does_not_keep_a_conversation_is_refused(old: str, new: str, message: str) -> None:
    before = f"Before: {IMAGE_MARK} after: {IMAGE_MARK} Requested change: "
    table = with_system(rows(released(20), before), "Be strict. ")
    assert learnt(table).failures == []
    assert CHAT.count(old) == 1
    unfit = CHAT.replace(old, new)
    prefill = "<think>" if unfit.endswith("<think>{% endif %}") else ""
    with pytest.raises(LearnError, match=f"the chat template of org/critic {message}"):
        learn(table, replace(TEMPLATE, chat_template=unfit, prefill=prefill), "learnt", "the set")


# --- the model's files


@pytest.fixture
def critic(tmp_path: Path) -> Path:
    """The tiny base's processor, with a chat template in the released one's shape."""
    processor = AutoProcessor.from_pretrained(BASE)
    processor.chat_template = CHAT
    processor.save_pretrained(tmp_path / "critic")
    return tmp_path / "critic"


def test_template_and_prefill_are_those_of_the_models_files(critic: Path) -> None:
    found = read_template(str(critic))
    assert found == Template(str(critic), CHAT, "<think>", "<|image_pad|>", (3136, 50176), 28)
    base = read_template(str(BASE))
    assert base.prefill == ""
    contract = learn(rows(released(20)), base, "learnt", "the set").contract
    assert contract.prefill == ""


def test_a_model_on_the_hub_is_named_with_its_commit(critic: Path, hub: Hub) -> None:
    files = {file.name: file.read_bytes() for file in critic.iterdir()}
    hub.files["org/critic"] = files | {"model.safetensors": b"weights"}
    template = read_template("org/critic")
    assert (template.model, template.chat_template) == (f"org/critic at {COMMIT}", CHAT)
    contract = learn(rows(released(20)), template, "learnt", "the set").contract
    assert contract.text.startswith(f"# Learnt from the set, with the chat template of org/critic at {COMMIT}, by")
    assert hub.sent("tokenizer.json") and not hub.sent("model.safetensors")


def test_a_hub_out_of_order_is_asked_again(critic: Path, hub: Hub) -> None:
    hub.files["org/critic"] = {file.name: file.read_bytes() for file in critic.iterdir()}
    hub.out_of_order = 1
    assert read_template("org/critic").chat_template == CHAT


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_a_hub_that_is_down_may_be_up_later(hub: Hub, revision: str) -> None:
    hub.stop()
    with pytest.raises(HubUnreachable, match=r"org/critic at revision .* can't be reached"):
        read_template("org/critic", revision)


def test_a_model_that_the_hub_does_not_have_is_named(hub: Hub) -> None:
    with pytest.raises(LearnError, match=r"template of org/critic can't be read: .*the hub has no such model"):
        read_template("org/critic")


def test_pixels_are_chosen_or_upstreams_whatever_the_model_has() -> None:
    """A Qwen2.5-VL's processor always has some: those of its base."""
    table = rows(released(20))
    assert learnt(table, pixels=(3136, 6272)).contract.min_pixels == 3136
    contract = learn(table, replace(TEMPLATE, pixels=(3136, 12845056)), "learnt", "the set").contract
    assert (contract.min_pixels, contract.max_pixels) == UPSTREAM_PIXELS == (262144, 1048576)


def test_a_model_without_a_template_is_named(tmp_path: Path, critic: Path) -> None:
    with pytest.raises(
        LearnError, match=r"the chat template of .*nowhere can't be read: give the folder of a check"
    ):
        read_template(str(tmp_path / "nowhere"))
    (critic / "chat_template.jinja").unlink()
    with pytest.raises(LearnError, match="has no chat template: give another model"):
        read_template(str(critic))


def test_a_template_that_cannot_be_rendered_is_named(critic: Path) -> None:
    (critic / "chat_template.jinja").write_text("{% for m in messages %}{{ 1 + m['content'] }}{% endfor %}")
    with pytest.raises(LearnError, match=r"the chat template of .*critic can't be rendered: unsupported operand"):
        read_template(str(critic))


def test_a_model_that_reads_no_pictures_is_named(critic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = AutoTokenizer.from_pretrained(critic)
    monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda folder: tokenizer)
    with pytest.raises(LearnError, match="critic reads no pictures: give another model"):
        read_template(str(critic))


def test_a_file_without_its_pictures_is_enough(tmp_path: Path) -> None:
    table = rows(released(20)).assign(images=[["/nowhere/a.png", "/nowhere/b.png"]] * 20)
    table.to_json(tmp_path / "set.json", orient="records")
    read = read_file(tmp_path / "set.json", images=False)
    assert [*read.columns] == ["id", "messages"]
    assert learnt(read).failures == []
