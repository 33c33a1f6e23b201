"""Every command of ``pcpo experiments`` against upstream's own parsers, configs, launch scripts and arithmetic."""

from __future__ import annotations

import ast
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import own_parsers
import pytest
from launch import ROOT
from source import NamedAssignments

from pcpo_overlay import compat
from pcpo_overlay.__main__ import build_parser
from pcpo_overlay.tools.embeddings import LIST
from pcpo_overlay.tools.launch import flow_grpo
from pcpo_overlay.tools.paper.experiments import CONFIGURATIONS, RECIPES, as_word, plan, possible_gpus

pytestmark = [
    pytest.mark.upstream("ddpo-pytorch", "DanceGRPO", "flow_grpo"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the config files import `imp`
]

WITH_CONFIG = [number for number, recipe in RECIPES.items() if recipe.config]
WITH_FLAGS = [number for number, recipe in RECIPES.items() if recipe.flags]


@pytest.fixture(scope="module")
def clones(upstream_clone):
    """The unpatched clones by name."""
    return {name: upstream_clone(name, False) for name in {recipe.clone for recipe in RECIPES.values()}}


@pytest.fixture
def clone_of(clones, monkeypatch):
    """``clone_of(N)``: the unpatched clone of a configuration's upstream, as working directory."""

    def enter(number: int) -> Path:
        clone = clones[RECIPES[number].clone]
        compat.install("flow_grpo")  # on Python 3.12 the config files need `imp`
        monkeypatch.chdir(clone)
        monkeypatch.syspath_prepend(str(clone))  # the wrapper adds to flow_grpo's rewards
        return clone

    yield enter
    sys.modules.pop("base", None)


def parsed(clone: Path, number: int, arguments: list[str]):
    """The settings that the trainer of a configuration gets, by the name of the flag."""
    script = clone / RECIPES[number].script
    wrapper = RECIPES[number].wrapper
    if wrapper:  # from where the script is printed to
        assert (ROOT / "vendor" / clone.name / wrapper).resolve() == Path(flow_grpo.__file__)
        arguments = [word.replace(wrapper, flow_grpo.__file__) for word in arguments]
    if RECIPES[number].config:
        config = own_parsers.absl_config(script, arguments)

        def setting(flag: str):
            value = SimpleNamespace(config=config)
            for name in flag.removeprefix("--").split("."):
                value = getattr(value, name)
            return value

        return setting
    namespace = own_parsers.argparse_arguments(script, arguments)
    return lambda flag: getattr(namespace, flag.removeprefix("--"))


def after_script(command: list[str], script: str) -> list[str]:
    return command[command.index(script) + 1 :]


def same(word: str, value: object) -> bool:
    """Whether a word of the command line became this value."""
    if isinstance(value, bool):
        return word in (str(value), "" if value else None)
    if isinstance(value, int | float):
        return float(word) == value
    return word == value


# ------------------------------------------------------- the command lines


@pytest.mark.parametrize("number", RECIPES)
def test_every_flag_is_one_of_upstreams_and_arrives(clone_of, number):
    clone, experiment = clone_of(number), plan(number)
    for arm in experiment.arms:
        arguments = after_script(experiment.command(arm), experiment.recipe.script)
        setting = parsed(clone, number, arguments)
        for change in (*experiment.changes, *arm.changes):
            assert same(change.value, setting(change.flag)), (arm.name, change)
        assert experiment.recipe.wrapper == "" or setting("--config.num_epochs") == 0
        for row, knob in experiment.recipe.knobs.items():
            value = experiment.paper[row]
            changed_in_arm = knob.flag in {change.flag for change in arm.changes}
            if isinstance(value, int | float) and knob.flag and row != "length" and not changed_in_arm:
                assert setting(knob.flag) == value, (arm.name, row)


@pytest.mark.parametrize(
    ("number", "wrong"),
    [
        *((number, "--config.train.no_such=1") for number in (1, 5, 8)),
        *((number, "--config.train.learning_rate=often") for number in (1, 5, 8)),
        *((number, "--no_such 1") for number in (6, 10)),
        *((number, "--sampling_steps often") for number in (6, 10)),
    ],
)
def test_the_parsers_refuse_what_is_not_theirs(clone_of, number, wrong):
    from absl import flags

    experiment = plan(number)
    arguments = after_script(experiment.command(experiment.arms[0]), experiment.recipe.script)
    refusals = (SystemExit, AttributeError, ValueError, TypeError, flags.Error)
    with pytest.raises(refusals):
        parsed(clone_of(number), number, [*arguments, *wrong.split()])


@pytest.mark.parametrize("number", RECIPES)
@pytest.mark.parametrize("fewest", [False, True])
def test_the_launcher_takes_its_words(number, fewest):
    gpus = possible_gpus(number)[0] if fewest else CONFIGURATIONS[number].gpus
    experiment = plan(number, gpus)
    command = experiment.command(experiment.arms[0])
    if command[0] == "torchrun":
        launch = own_parsers.torchrun(command[1:])
        assert launch.nproc_per_node == str(gpus)
    else:
        assert command[:2] == ["accelerate", "launch"]
        launch = own_parsers.accelerate_launch(command[2:])
        assert launch.num_processes == gpus
        assert launch.multi_gpu == (gpus > 1 and experiment.recipe.trainer == "ddpo")
    assert launch.training_script == experiment.recipe.script
    assert launch.training_script_args == after_script(command, experiment.recipe.script)


# ------------------------------------------------------ upstream's own way


@pytest.mark.parametrize("number", WITH_CONFIG)
def test_what_is_called_upstreams_own_is_in_its_config(clone_of, number):
    clone, recipe = clone_of(number), RECIPES[number]
    setting = parsed(clone, number, ["--config", recipe.config])
    for row, knob in recipe.knobs.items():
        if row == "prompts" and recipe.clone == "flow_grpo":
            assert Path(setting(knob.flag)) == clone / knob.own
        elif knob.flag:
            assert same(knob.own, setting(knob.flag)), row
    for flag, value in recipe.batch_own.items():
        assert setting(flag) == value, flag
    if recipe.output:
        assert setting(recipe.output[0]) == recipe.output[1]
    changed = {change.flag: change.own for change in plan(number).changes}
    changed.pop("--config.dataset", None)  # a path; compared above
    for flag, own in changed.items():
        assert same(own, setting(flag)), flag


@pytest.mark.parametrize("number", [5, *WITH_FLAGS])
def test_dancegrpos_launch_scripts_are_as_taken(clone_of, number):
    clone, recipe = clone_of(number), RECIPES[number]
    (words,) = own_parsers.launches(clone / recipe.origin)
    expected = [word.format(gpus=8) for word in recipe.launcher] + [recipe.script]
    if recipe.config:
        assert words == [*expected, "--config", recipe.config]
    else:
        given = [word for item in recipe.flags.items() for word in item if word]
        assert words[: len(expected)] == expected
        assert flags_of(words[len(expected) :]) == flags_of(given) == recipe.flags
    made, *embedded = recipe.prepare
    assert made.replace("mkdir -p", "mkdir") in (clone / recipe.origin).read_text().splitlines()
    if number in WITH_FLAGS:
        (line,) = embedded
        _, _, embed = line.partition(" || ")
        words = shlex.split(embed)
        args = build_parser().parse_args(words[1:])
        preprocess = (clone / "scripts" / "preprocess" / "preprocess_flux_rl_embeddings.sh").read_text()
        for setting in (f'MODEL_PATH="{args.model}"', f'OUTPUT_DIR="{args.out}"', f'"./{args.prompts}"'):
            assert setting in preprocess
        assert recipe.flags["--data_json_path"] == f"{args.out}/{LIST}"


def flags_of(words: list[str]) -> dict[str, str]:
    flags: dict[str, str] = {}
    for word in words:
        if word.startswith("--"):
            flags[word] = ""
        else:
            flags[list(flags)[-1]] += word
    return flags


@pytest.mark.parametrize("number", [8, 9])
def test_flow_grpos_launch_script_is_as_taken(clone_of, number):
    recipe = RECIPES[number]
    expected = [word.format(gpus=CONFIGURATIONS[number].gpus) for word in recipe.launcher]
    known = own_parsers.launches(clone_of(number) / "scripts" / "single_node" / "grpo.sh")
    assert [*expected, recipe.script] in [words[:-2] for words in known]
    if number == 8:
        assert [*expected, recipe.script, "--config", recipe.config] in known


def test_ddpos_readme_starts_it_as_taken(clone_of):
    text = (clone_of(1) / "README.md").read_text()
    assert f"accelerate launch scripts/train.py --config {RECIPES[1].config}" in text


def test_the_patched_trainers_are_those_that_are_named(clones, upstream_clone):
    patched = {name: upstream_clone(name, True) for name in clones}
    for recipe in RECIPES.values():
        assert f'pcpo.start("{recipe.trainer}"' in (patched[recipe.clone] / recipe.script).read_text()


# ---------------------------------------------------- the batch arithmetic


@pytest.mark.parametrize("number", WITH_CONFIG)
def test_the_batch_by_upstreams_own_formulas(clone_of, number):
    paper, recipe = CONFIGURATIONS[number], RECIPES[number]
    script = clone_of(number) / recipe.script
    own = own_parsers.absl_config(script, ["--config", recipe.config])
    for gpus in possible_gpus(number):
        experiment = plan(number, gpus)
        overrides = [f"{change.flag}={change.value}" for change in experiment.changes]
        config = own_parsers.absl_config(script, ["--config", recipe.config, *overrides])
        images, per_update = formulas(script, config, gpus)
        assert images == experiment.batch.images == paper["images_per_iteration"]
        assert images % per_update == 0
        assert images // per_update == experiment.batch.updates == paper["updates"]
        if recipe.clone == "flow_grpo":  # what its config file asserts and sets for its own number of GPUs
            assert config.sample.num_batches_per_epoch % 2 == 0
            assert config.train.gradient_accumulation_steps == config.sample.num_batches_per_epoch // 2
        images, per_update = formulas(script, own, gpus)
        own_batch = experiment.own_batch
        assert (images, images // per_update) == (own_batch.images, own_batch.updates)


def formulas(script: Path, config: object, gpus: int) -> tuple[int, int]:
    """Images per iteration and per update, by the trainer's own two lines; its own asserts on them hold."""
    visitor = NamedAssignments({"samples_per_epoch", "total_train_batch_size"})
    tree = ast.parse(script.read_text())
    visitor.visit(tree)
    asserts = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
        and {"config.sample.batch_size", "samples_per_epoch"} & {ast.unparse(n) for n in ast.walk(node)}
        and "total_batch_size" not in ast.unparse(node)  # that of a rank's samples, after they were drawn
    ]
    assert len(visitor.found) == 2
    assert len(asserts) == (0 if script.name == "train_sd3.py" else 3)
    scope: dict[str, int] = {}
    code = compile(ast.Module([*visitor.found, *asserts], type_ignores=[]), script.name, "exec")
    exec(code, {"config": config, "accelerator": SimpleNamespace(num_processes=gpus)}, scope)
    return scope["samples_per_epoch"], scope["total_train_batch_size"]


@pytest.mark.parametrize("number", WITH_FLAGS)
def test_flux_makes_the_batch_with_upstreams_own_loader_and_loop(clone_of, number):
    clone, paper, recipe = clone_of(number), CONFIGURATIONS[number], RECIPES[number]
    for gpus in possible_gpus(number):
        experiment = plan(number, gpus)
        changed = {change.flag: change.value for change in experiment.changes}
        for flags, batch in ((changed, experiment.batch), ({}, experiment.own_batch)):
            words = [word for item in {**recipe.flags, **flags}.items() for word in item if word]
            args = own_parsers.argparse_arguments(clone / recipe.script, words)
            prompts, captions = first_of_the_loader(clone, args)
            assert prompts == captions
            images = prompts * args.num_generations
            steps = steps_of_the_loop(clone / recipe.script, args, images)
            assert (images * gpus, steps, prompts * gpus) == (batch.images, batch.updates, batch.prompts)
        made = experiment.batch
        assert (made.images, made.updates) == (paper["images_per_iteration"], paper["updates"])


def first_of_the_loader(clone: Path, args: Any) -> tuple[int, int]:
    """Prompts and captions that the trainer gets at a time, through upstream's own wrapper of its loader."""
    import torch

    source = clone / "fastvideo" / "utils" / "communications_flux.py"
    names = ("def prepare_sequence_parallel_data", "def sp_parallel_dataloader_wrapper")
    code, found = own_parsers.statements(source, *names)
    assert len(found) == 2
    scope: dict[str, Any] = {"nccl_info": SimpleNamespace(sp_size=args.sp_size)}
    exec(code, scope)
    batch = (
        *(torch.zeros(args.train_batch_size, 2) for _ in range(3)),
        ["a caption"] * args.train_batch_size,
    )
    loader = scope["sp_parallel_dataloader_wrapper"](
        [batch], "cpu", args.train_batch_size, args.sp_size, args.train_sp_batch_size
    )
    embeddings, pooled, text_ids, captions = next(loader)
    assert len(embeddings) == len(pooled) == len(text_ids)
    return len(embeddings), len(captions)


def steps_of_the_loop(script: Path, args: Any, images: int) -> int:
    """How often the trainer steps on a rank's images, by its own condition."""
    _, (step,) = own_parsers.statements(script, "if (i + 1) % args.gradient_accumulation_steps == 0")
    assert "optimizer.step()" in ast.unparse(step)
    condition = compile(ast.Expression(step.test), script.name, "eval")
    return sum(eval(condition, {"args": args, "i": i}) for i in range(images))


@pytest.mark.parametrize("number", [8, 9])
def test_flow_grpo_draws_whole_groups_with_its_own_sampler(clone_of, number):
    import torch
    from torch.utils.data import Sampler

    script = clone_of(number) / RECIPES[number].script
    code, _ = own_parsers.statements(script, "class DistributedKRepeatSampler")
    scope: dict[str, Any] = {"Sampler": Sampler, "torch": torch}
    exec(code, scope)
    config = own_parsers.absl_config(script, ["--config", RECIPES[number].config])
    size, group = config.sample.train_batch_size, config.sample.num_image_per_prompt
    for gpus in possible_gpus(number):
        samplers = [
            scope["DistributedKRepeatSampler"](range(1000), size, group, gpus, r) for r in range(gpus)
        ]
        drawn = [prompt for sampler in samplers for prompt in next(iter(sampler))]
        assert all(drawn.count(prompt) == group for prompt in drawn)
        batch = plan(number, gpus).batch
        prompts = len(set(drawn)) * batch.images // len(drawn)
        assert prompts == batch.prompts == CONFIGURATIONS[number]["prompts_per_iteration"]


# --------------------------------------------- what the remarks say of it


def test_what_is_said_of_ddpo(clone_of):
    clone = clone_of(1)
    text = (clone / "scripts" / "train.py").read_text()
    (call,) = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "LoRAAttnProcessor"
    ]
    assert {keyword.arg for keyword in call.keywords} == {"hidden_size", "cross_attention_dim"}
    base = own_parsers.absl_config(clone / "scripts" / "train.py", ["--config", "config/base.py"])
    assert base.pretrained.model == "runwayml/stable-diffusion-v1-5"
    rewards = (clone / "ddpo_pytorch" / "rewards.py").read_text()
    assert "http://127.0.0.1:8085" in rewards
    # with one image it adds a number to a list: half of half of 8 is the least batch
    assert 'np.array(response_data["recall"]).squeeze()' in rewards and "+= scores.tolist()" in rewards
    assert isinstance(np.array([[0.5]]).squeeze().tolist(), float)
    prompts = own_parsers.absl_config(clone / "scripts" / "train.py", ["--config", RECIPES[3].config])
    assets = clone / "ddpo_pytorch" / "assets"
    counts = {
        key: len((assets / name).read_text().strip().split("\n"))
        for key, name in prompts.prompt_fn_kwargs.items()
    }
    assert counts == {"nouns_file": 45, "activities_file": 3}  # the legend's


def test_what_is_said_of_dancegrpo_on_stable_diffusion(clone_of):
    text = (clone_of(5) / RECIPES[5].script).read_text()
    for knob in (RECIPES[5].knobs["model"], RECIPES[5].knobs["prompts"]):
        assert f'"{knob.own}"' in text
    assert f'"./{RECIPES[5].leaves}"' in text
    assert "if epoch > config.num_epochs:" in text
    rewards = {
        ast.literal_eval(node.comparators[0])
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Compare) and ast.unparse(node.left) == "config.reward_fn"
    }
    assert rewards == {"hpsv2", "hpsv3"}
    others = sorted((clone_of(5) / "fastvideo").glob("train_grpo_*.py"))
    with_pickscore = [p.stem.removeprefix("train_grpo_") for p in others if "use_pickscore" in p.read_text()]
    assert with_pickscore == ["flux", "flux_lora", "qwenimage", "qwenimage_edit"]


def test_what_is_said_of_pick_a_pics_prompts(clones):
    experiment = plan(7)
    (make,) = experiment.recipe.make
    words = shlex.split(make.partition(" || ")[2])
    args = build_parser().parse_args(words[1:])
    assert (args.reward, str(args.out)) == ("pickscore", experiment.recipe.directory)
    file = clones["flow_grpo"] / Path(args.prompts).relative_to("vendor/flow_grpo")
    prompts, tested = (f.read_text().splitlines() for f in (file, file.with_name("test.txt")))
    assert (len(prompts), len(tested), set(prompts) & set(tested)) == (25432, 2048, set())
    assert experiment.paper["length"] * experiment.batch.prompts == 7680


@pytest.mark.parametrize("number", WITH_FLAGS)
def test_what_is_said_of_dancegrpo_on_flux(clone_of, number):
    clone, recipe = clone_of(number), RECIPES[number]
    tree = ast.parse((clone / recipe.script).read_text())
    guidance = [
        ast.unparse(keyword.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "transformer"
        for keyword in node.keywords
        if keyword.arg == "guidance"
    ]
    assert len(guidance) == 2 and all(value.startswith("torch.tensor([3.5]") for value in guidance)
    data = (clone / "fastvideo" / "dataset" / "latent_flux_rl_datasets.py").read_text()
    assert "if random.random() < self.cfg_rate:" in data
    sixteen = own_parsers.launches(clone / "scripts" / "finetune" / "finetune_flux_grpo.sh")[0]
    assert sixteen[sixteen.index("--max_grad_norm") + 1] == "1.0"
    own = plan(number).own_batch
    assert (own.images, own.prompts, own.updates) == (192, 16, 2)


@pytest.mark.parametrize("number", RECIPES)
def test_every_trainer_starts_wandb(clone_of, number):
    text = (clone_of(number) / RECIPES[number].script).read_text()
    assert "wandb.init(" in text or 'log_with="wandb"' in text


def test_what_the_ocr_reward_needs(clone_of):
    clone = clone_of(8)
    imports = (clone / "flow_grpo" / "ocr.py").read_text()
    assert "from paddleocr import" in imports and "from Levenshtein import" in imports
    assert "paddle" not in (clone / "setup.py").read_text()
    readme = (clone / "README.md").read_text()
    for package in ("paddlepaddle-gpu==", "paddleocr==", "python-Levenshtein"):
        assert f"pip install {package}" in readme


@pytest.mark.parametrize("number", [8, 9])
def test_what_is_said_of_flow_grpo(clone_of, number):
    clone, recipe = clone_of(number), RECIPES[number]
    script = clone / recipe.script
    (lora,) = [
        node
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "LoraConfig"
    ]
    values = {keyword.arg: ast.unparse(keyword.value) for keyword in lora.keywords}
    assert f"{values['r']} {values['lora_alpha']}" == as_word(CONFIGURATIONS[number]["lora"])
    config = own_parsers.absl_config(script, ["--config", recipe.config])
    assert str(config.reward_fn.to_dict()) == recipe.knobs["reward"].own
    tree = ast.parse(script.read_text())  # whatever num_epochs is, the loop is endless
    assert any(isinstance(node, ast.While) and ast.unparse(node.test) == "True" for node in ast.walk(tree))
    tests = {8: ("dataset/ocr", 1018), 9: ("dataset/pickscore_sfw", 1024)}
    folder, count = tests[number]
    assert len((clone / folder / "test.txt").read_text().splitlines()) == count
    if number == 9:
        (change,) = [change for change in plan(9).changes if change.flag == "--config.dataset"]
        assert change.value == folder
        assert len((clone / folder / "train.txt").read_text().splitlines()) == 15486
    own = plan(9).own_batch
    assert (own.images, own.prompts) == (256, 16)
