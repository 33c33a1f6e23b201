"""``ab`` and ``evaluate`` on folders and checkpoints that anybody may have written: one line, and nothing run."""

from __future__ import annotations

import copy
import importlib
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from synthetic_runs import write_run
from test_ab import make_clone
from test_evaluate import ddpo_run, flow_run, save_flux_lora, save_unet
from test_evaluate import quality as records_of
from test_hostile_runs import mutated
from torch import Tensor

from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.ab import runner, state
from pcpo_overlay.tools.checkpoints import Checkpoint
from pcpo_overlay.tools.evaluate import run as evaluating
from pcpo_overlay.tools.evaluate import samples
from pcpo_overlay.tools.evaluate.loaders import LOADERS
from pcpo_overlay.tools.faults import Fault
from pcpo_overlay.tools.miniature import flux_path, sd, sd3_path, sd_path
from pcpo_overlay.tools.report import build
from pcpo_overlay.tools.runs.run import load

pytestmark = pytest.mark.usefixtures("offline_on_one_thread")
Capture = pytest.CaptureFixture[str]

#: Of the 2,000 mutations those of ``report`` are in test_hostile_runs.
OF_AB, OF_EVALUATE, OF_CHECKPOINTS = 300, 400, 300
#: Seconds of a processor for each of the three.
SECONDS = 20


@pytest.fixture(autouse=True)
def without_bars() -> None:
    """What a test loads by itself is not what the command says."""
    importlib.import_module("diffusers.utils.logging").disable_progress_bar()


def one_line(command: str, code: int, capsys: Capture, said: str) -> None:
    err = capsys.readouterr().err
    assert code == 1 and err.count("\n") == 1 and err.startswith(f"pcpo {command}: "), err
    assert said in err, err


# ------------------------------------------------------------------ evaluate


def evaluate(run: Path) -> int:
    return main(["evaluate", str(run), "--samples", "2"])


def saved(run: Path, held: object) -> Path:
    """A checkpoint of the whole network that holds this."""
    folder = run / "logs" / "named" / "checkpoints" / "checkpoint_0" / "unet"
    folder.mkdir(parents=True)
    torch.save(held, folder / "diffusion_pytorch_model.bin")
    return folder / "diffusion_pytorch_model.bin"


class RunMe:
    """What a pickle may hold: unpickled without care, it runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def one_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base model's images are not what these tests are about."""
    drawn = samples.Samples(
        torch.rand(10, 2, 64), torch.rand(10, 2, dtype=torch.float64), torch.ones(10, 2).bool()
    )
    monkeypatch.setattr(evaluating, "base_samples", lambda *_: drawn)


def one_of(change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = sd.load_pipeline().unet.state_dict()
    name = max(state, key=lambda n: state[n].numel())
    return {**state, name: change(state[name])}


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (lambda: [torch.zeros(2)], "it holds a list in place of tensors by name"),
        (lambda: {0: torch.zeros(2)}, "a name in it is 0"),
        (lambda: {"conv_in.weight": 3}, "conv_in.weight is no tensor"),
        (lambda: {"conv_in.weight": torch.zeros(1).expand(10**6, 10**9)}, "claims more numbers than it has"),
        (lambda: {"conv_in.weight": torch.eye(3).to_sparse()}, "is no tensor of real numbers"),
        (lambda: {"conv_in.weight": torch.zeros(2, dtype=torch.complex64)}, "is no tensor of real numbers"),
        (lambda: one_of(lambda t: t * float("nan")), "has numbers that are not finite; the training diverged"),
        (lambda: one_of(lambda t: t * 0 + 1e38), "draws what is no image: its numbers are not finite"),
        (lambda: one_of(lambda t: t.flatten()), "does not fit the model the run began with"),
        (lambda: {}, "does not fit the model the run began with"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_is_none(
    tmp_path: Path, capsys: Capture, one_base: None, held: Callable[[], object], said: str
) -> None:
    run = ddpo_run(tmp_path / "a")
    file = saved(run, held())
    one_line("evaluate", evaluate(run), capsys, said)
    assert file.is_file() and [line["checkpoint"] for line in records_of(run)] == ["base"]


def test_a_pickle_in_a_checkpoint_is_not_run(tmp_path: Path, capsys: Capture, one_base: None) -> None:
    run = ddpo_run(tmp_path / "a")
    saved(run, {"conv_in.weight": RunMe(tmp_path / "was-run")})
    one_line("evaluate", evaluate(run), capsys, "cannot be read")
    assert not (tmp_path / "was-run").exists()


def test_a_checkpoint_that_is_packed_or_no_file(tmp_path: Path, capsys: Capture, one_base: None) -> None:
    import zipfile

    run = ddpo_run(tmp_path / "a")
    file = saved(run, {"x": torch.zeros(10**6)})
    with zipfile.ZipFile(file) as before:
        parts = {name: before.read(name) for name in before.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in parts.items():
            packed.writestr(name, data)
    one_line("evaluate", evaluate(run), capsys, "a part of it is packed")

    sd_run = write_run(
        tmp_path / "b", rewards=[0.0], upstream="dancegrpo_sd",
        trainer={"reward_fn": "hpsv2", "sample": {"num_steps": 2, "guidance_scale": 1.0, "eta": 1.0}},
    )  # fmt: skip
    (sd_run / "work" / "data").mkdir(parents=True)
    (sd_run / "work" / "data" / "stable-diffusion-v1-4").symlink_to(sd_path())
    folder = sd_run / "work" / "my_checkpoints" / "checkpoint_epoch_1"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "diffusion_pytorch_model.safetensors")
    one_line("evaluate", evaluate(sd_run), capsys, "it is no file")


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        *(({"num_steps": n}, "trainer.sample.num_steps is") for n in (0, "x", 2.5, -1, True, None, 10**9)),
        *(({"guidance_scale": g}, "trainer.sample.guidance_scale is") for g in ("a", float("nan"), None, -1, 1e99)),
        *(({"eta": e}, "trainer.sample.eta is") for e in (None, [1], 2)),
    ],
)  # fmt: skip
def test_settings_of_the_sampler_that_are_none(
    tmp_path: Path, capsys: Capture, sample: dict[str, Any], said: str
) -> None:
    run = ddpo_run(
        tmp_path / "a", sample={"num_steps": 2, "guidance_scale": 1.0, "eta": 1.0, "batch_size": 8, **sample}
    )
    save_unet(run, 0, 0.1)
    one_line("evaluate", evaluate(run), capsys, f"{run}: run.json: {said}")
    assert not (run / "evaluation.jsonl").exists()


@pytest.mark.parametrize(
    ("part", "text", "said"),
    [
        ("unet/config.json", "[" * 9999, "unet/config.json is nested more than 50 levels deep"),
        ("unet/config.json", "{}x", "unet/config.json is damaged"),
        ("vae/config.json", '{"layers_per_block": 1000000000}', "vae/config.json has another layers_per_block"),
        ("scheduler/scheduler_config.json", '{"num_train_timesteps": 1000000000}', "another num_train_timesteps"),
        ("text_encoder/config.json", '{"auto_map": {"AutoModel": "evil.Evil"}}', "has another auto_map"),
        ("tokenizer/vocab.json", "{", "cannot be loaded"),
        ("model_index.json", "[]", "model_index.json is not of a StableDiffusionPipeline"),
    ],
)  # fmt: skip
def test_a_malformed_model(tmp_path: Path, capsys: Capture, part: str, text: str, said: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(sd_path(), model)
    (model / part).write_text(text)
    run = ddpo_run(tmp_path / "a", pretrained={"model": str(model)})
    save_unet(run, 0, 0.1)
    one_line("evaluate", evaluate(run), capsys, said)


def test_an_adapter_is_read_without_the_module_that_it_names(
    tmp_path: Path, capsys: Capture, one_base: None
) -> None:
    """peft imports ``megatron_core`` of an adapter's configuration, from wherever the command is run."""
    from peft import LoraConfig, get_peft_model

    run = flow_run(tmp_path / "a", train={})
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text("".join(json.dumps({**line, "step": 0}) + "\n" for line in metrics))
    inner = run / "checkpoints" / "checkpoint-2" / "lora"
    network = get_peft_model(
        LOADERS["flow_grpo"].load_pipeline(sd3_path()).transformer,
        LoraConfig(r=2, target_modules=["attn.to_q"]),
    )
    network.save_pretrained(inner)
    (tmp_path / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'was-run')!r})")
    config = json.loads((inner / "adapter_config.json").read_text())
    changes = {
        "megatron_config": {"x": 1},
        "use_dora": True,
        "target_modules": ".*",
        "r": "x",
        "lora_alpha": None,
    }
    for name, value in changes.items():
        (inner / "adapter_config.json").write_text(
            json.dumps({**config, "megatron_core": "evil", name: value})
        )
        code = "import sys; from pcpo_overlay.__main__ import main; sys.exit(main(sys.argv[1:]))"
        if name == "megatron_config":
            done = subprocess.run(
                [sys.executable, "-c", code, "evaluate", str(run), "--samples", "2"], cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
            assert f"its adapter_config.json has {name}" in done.stderr
        else:
            one_line("evaluate", evaluate(run), capsys, "adapter_config.json")
    assert not (tmp_path / "was-run").exists()
    (inner / "adapter_config.json").write_text(json.dumps({**config, "megatron_core": "evil"}))
    assert evaluate(run) == 0


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path, capsys: Capture) -> None:
    run = ddpo_run(tmp_path / "a")
    save_unet(run, 0, 0.1)
    (tmp_path / "thesis.tex").write_text("a year's work")
    (run / ".evaluate.lock").symlink_to(tmp_path / "thesis.tex")
    one_line("evaluate", evaluate(run), capsys, "is a link")
    assert (tmp_path / "thesis.tex").read_text() == "a year's work"


def test_a_run_that_died_or_failed_is_called_so(tmp_path: Path, capsys: Capture, one_base: None) -> None:
    for name, told in (("died", "died: its process is gone"), ("failed", "failed: ValueError: no")):
        run = ddpo_run(tmp_path / name)
        info = json.loads((run / "run.json").read_text())
        change = dead() if name == "died" else {"status": "failed", "error": "ValueError: no"}
        (run / "run.json").write_text(json.dumps({**info, **change}))
        save_unet(run, 0, 0.1)
        assert evaluate(run) == 0
        assert f"note: {name}: this run {told}\n" in capsys.readouterr().out


def dead() -> dict[str, Any]:
    """What ``run.json`` says of a run whose process is gone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    return {"status": "running", "starts": [{"pid": gone.pid, "host": socket.gethostname()}]}


# ------------------------------------------------------------------------ ab


@pytest.fixture
def ab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``pcpo ab`` on a stand-in clone; a run that it would start is said to fail."""
    clone = make_clone(tmp_path, "ddpo")
    monkeypatch.setattr(runner, "start", lambda *_: "no run is started here")
    monkeypatch.setattr(build, "draw_all", lambda *_: {})

    def command(*words: object, out: Path = tmp_path / "out") -> int:
        given = ["--modes", "observe", "--clone", clone, "--config", "config/ours.py", "--out", out, *words]
        return main(["ab", "ddpo", *map(str, given)])

    return command


def finished(tmp_path: Path, ab: Callable[..., int], capsys: Capture) -> Path:
    """A run folder that ``ab`` takes for a finished run of its own."""
    folder = tmp_path / "out" / "observe-seed0"
    planned: list[Any] = []

    def kept(args: object, request: object, plan: list[Any], *_: object) -> int:
        planned.extend(plan)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pcpo_overlay.tools.cli.ab._run", kept)
        ab()
    write_run(folder, rewards=[0.0, 1.0])
    state.write_record(planned[0], exit_code=0, pid=1)
    assert ab() == 0
    capsys.readouterr()
    return folder


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--launch-args", "'x"], 2, "--launch-args 'x: No closing quotation"),
        (["--config", "loop/x.py"], 1, "loop"),
        (["--config", "~nobody-of-this-name/x.py"], 1, "nobody-of-this-name"),
        (["--clone", "~nobody-of-this-name"], 1, "nobody-of-this-name"),
        (["--config", "x" * 5000], 1, "too long"),
    ],
)  # fmt: skip
def test_arguments_of_ab_that_are_none(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, ab: Callable[..., int],
    words: list[str], code: int, said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert ab(*words) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("pcpo ab: ") and said in err, err


def test_an_out_in_a_circle_of_links(tmp_path: Path, capsys: Capture, ab: Callable[..., int]) -> None:
    (tmp_path / "loop").symlink_to("loop")
    one_line("ab", ab(out=tmp_path / "loop" / "out"), capsys, "loop")


def test_a_torchrun_line_with_an_open_quote(tmp_path: Path, capsys: Capture) -> None:
    clone = tmp_path / "DanceGRPO"
    (clone / "fastvideo").mkdir(parents=True)
    (clone / "fastvideo" / "train_grpo_flux.py").write_text("import pcpo_overlay")
    (clone / "x.sh").write_text("torchrun 'fastvideo/train_grpo_flux.py\n")
    code = main(["ab", "dancegrpo", "--trainer", "flux", "--clone", str(clone), "--config", "x.sh"])
    one_line("ab", code, capsys, "x.sh: the torchrun line cannot be read: No closing quotation")


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"digest": 3, "settings": 3}, "holds a run with other settings"),
        ({"digest": None, "settings": {"seed": "x" * 10**6}}, "holds a run with other settings"),
        ("[" * 9999, "no readable ab.json in it"),
        ("[]", "no readable ab.json in it"),
    ],
)
def test_a_damaged_record_of_ab(
    tmp_path: Path, capsys: Capture, ab: Callable[..., int], record: Any, said: str
) -> None:
    folder = finished(tmp_path, ab, capsys)
    (folder / "ab.json").write_text(record if isinstance(record, str) else json.dumps(record))
    assert ab() == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err and len(err) < 2000


@pytest.mark.parametrize("pid", [10**18, -1, 0, True, "1", [1], 1.5])
def test_an_id_in_a_record_that_no_process_has(
    tmp_path: Path, capsys: Capture, ab: Callable[..., int], pid: object
) -> None:
    folder = finished(tmp_path, ab, capsys)
    record = json.loads((folder / "ab.json").read_text())
    (folder / "ab.json").write_text(json.dumps({**record, "exit_code": None, "pid": pid}))
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**info, **dead()}))
    one_line("ab", ab(), capsys, "no run could be read")
    assert (tmp_path / "out" / "observe-seed0.aside-1").is_dir()


def test_ab_says_how_the_run_ended_that_it_sets_aside(
    tmp_path: Path, capsys: Capture, ab: Callable[..., int]
) -> None:
    for n, (change, told) in enumerate(
        (
            (dead(), "died: its process is gone"),
            ({"status": "failed", "error": "ValueError: no"}, "failed: ValueError: no"),
        )
    ):
        folder = finished(tmp_path, ab, capsys)
        info = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**info, **change}))
        assert ab() == 1
        said = capsys.readouterr().out
        assert (
            f"observe, seed 0: an unfinished run was there ({told}); it is now {folder}.aside-{n + 1}" in said
        )


# ----------------------------------------------------------------- mutations


@pytest.fixture
def quick() -> Iterator[None]:
    started = time.process_time()
    yield
    assert time.process_time() - started < SECONDS


@pytest.mark.slow
def test_no_mutation_of_a_record_of_ab_shows_a_traceback(
    tmp_path: Path, capsys: Capture, ab: Callable[..., int], quick: None
) -> None:
    folder = finished(tmp_path, ab, capsys)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    draw, codes = random.Random(7), []
    for n in range(OF_AB):
        shutil.rmtree(tmp_path / "out")
        folder.mkdir(parents=True)
        for name, data in whole.items():
            (folder / name).write_bytes(data)
        name = draw.choice(("ab.json", "ab.json", "run.json"))
        data = mutated(json.dumps(json.loads(whole[name])), draw)
        (folder / name).write_bytes(data)
        told = f"mutation {n} of {name}: {data[:2000]!r}"
        codes.append(ab())
        err = capsys.readouterr().err.splitlines()
        assert codes[-1] in (0, 1) and all(line.startswith("pcpo ab: ") for line in err), (told, err)
        assert bool(err) == bool(codes[-1]), (told, err)
    assert OF_AB / 10 < sum(codes) < OF_AB * 0.9, "the mutations are all refused, or none is"


@pytest.mark.slow
def test_no_mutation_of_what_evaluate_reads_of_a_run_shows_a_traceback(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ddpo_run(tmp_path / "a")
    save_unet(run, 0, 0.1)
    assert evaluate(run) == 0
    files = ("run.json", "metrics.jsonl", "evaluation.jsonl", "evaluation.jsonl")
    whole = {name: (run / name).read_text() for name in files}
    assert len(records_of(run)) == 2
    (cache,) = (tmp_path / evaluating.CACHE).glob("*.safetensors")
    base = samples.restore(cache, records_of(run)[0]["settings"])
    assert base is not None
    monkeypatch.setattr(evaluating.Subject, "draw", lambda *_: base)
    draw, codes = random.Random(8), []
    started = time.process_time()
    for n in range(OF_EVALUATE):
        name = draw.choice(files)
        data = mutated(json.dumps(json.loads(whole[name])) if name == "run.json" else whole[name], draw)
        (run / name).write_bytes(data)
        told = f"mutation {n} of {name}: {data[:2000]!r}"
        codes.append(evaluate(run))
        err = capsys.readouterr().err.splitlines()
        assert codes[-1] in (0, 1) and all(line.startswith("pcpo evaluate: ") for line in err), (told, err)
        assert bool(err) == bool(codes[-1]), (told, err)
        if codes[-1] == 0:
            load(run)  # what it wrote can be read
        for file, text in whole.items():
            (run / file).write_text(text)
    assert OF_EVALUATE / 10 < sum(codes) < OF_EVALUATE * 0.9, "the mutations are all refused, or none is"
    assert time.process_time() - started < SECONDS


def changed(state: dict[str, Tensor], draw: random.Random) -> object:
    """A state with one fault, or something else in its place."""
    name = draw.choice(list(state))
    value = state[name]
    other = draw.choice(
        (
            None, 3, "x", [value], {"a": value}, value[:0], value.flatten(), value.unsqueeze(0), value.double(),
            value.to(torch.complex64), value.to(torch.int8), value.to(torch.float8_e5m2), value.bool(),
            value.to_sparse(), value * float("inf"), value + float("nan"), value * 1e30, torch.tensor(1.0),
            value.reshape(-1)[:1].expand(10**5, 10**6), torch.empty(3, device="meta"),
        )
    )  # fmt: skip
    kind = draw.choice(("value", "value", "name", "lost", "whole"))
    if kind == "value":
        return {**state, name: other}
    rest = {key: held for key, held in state.items() if key != name}
    if kind == "name":
        names: tuple[object, ...] = (0, "", "x", None, f"{name}.x", "\ud800", 1.5, ("a",))
        renamed: dict[object, Tensor] = {draw.choice(names): value}
        return renamed | rest
    wholes: tuple[object, ...] = ([state], value, None, {}, "x", [1, 2], {name: state})
    return rest if kind == "lost" else draw.choice(wholes)


def with_fault(data: bytes, draw: random.Random) -> bytes:
    """A safetensors file with a fault in its header's length, its header, its numbers or its end."""
    size = struct.unpack("<Q", data[:8])[0]
    header = data[8 : 8 + size].decode()
    kind = draw.choice(("length", "header", "header", "bytes", "end"))
    if kind == "length":
        return struct.pack("<Q", draw.choice((0, 1, size - 1, size + 8, 2**40, 2**64 - 1))) + data[8:]
    if kind == "header":
        made = mutated(header.strip(), draw)
        return struct.pack("<Q", len(made)) + made + data[8 + size :]
    at = draw.randrange(len(data))
    return (
        data[:at]
        if kind == "end"
        else data[:at] + bytes(draw.randrange(256) for _ in range(64)) + data[at + 64 :]
    )


@pytest.mark.slow
def test_no_mutation_of_a_checkpoint_shows_a_traceback(tmp_path: Path, capsys: Capture, quick: None) -> None:
    from peft import LoraConfig, get_peft_model

    kinds: list[tuple[str, Any, Checkpoint]] = []
    unet = sd.load_pipeline()
    unet.unet.save_pretrained(tmp_path / "unet")
    kinds.append(
        ("ddpo", unet, Checkpoint("a", 1, tmp_path / "unet" / "diffusion_pytorch_model.safetensors", False))
    )
    sd3 = LOADERS["flow_grpo"].load_pipeline(sd3_path())
    adapted = get_peft_model(
        copy.deepcopy(sd3.transformer), LoraConfig(r=2, init_lora_weights=False, target_modules=["attn.to_q"])
    )
    adapted.save_pretrained(tmp_path / "lora")
    kinds.append(
        ("flow_grpo", sd3, Checkpoint("b", 1, tmp_path / "lora" / "adapter_model.safetensors", True))
    )
    save_flux_lora(tmp_path, 2, 4)
    flux = LOADERS["dancegrpo_flux_lora"].load_pipeline(flux_path())
    low_rank = tmp_path / "checkpoints" / "lora-checkpoint-2-0" / "pytorch_lora_weights.safetensors"
    kinds.append(("dancegrpo_flux_lora", flux, Checkpoint("c", 1, low_rank, True)))
    for name, pipeline, checkpoint in kinds:
        LOADERS[name].put(copy.deepcopy(fresh(pipeline)), checkpoint)
    draw, refused = random.Random(9), 0
    for n in range(OF_CHECKPOINTS):
        name, pipeline, checkpoint = draw.choice(kinds)
        folder = tmp_path / "mutated"
        shutil.copytree(checkpoint.weights.parent, folder)
        weights = folder / checkpoint.weights.name
        beside = [p for p in folder.glob("*config.json") if checkpoint.lora]
        kind = draw.choice(("safetensors", "bin", *(["beside"] if beside else [])))
        if kind == "safetensors":
            weights.write_bytes(with_fault(weights.read_bytes(), draw))
        elif kind == "beside":
            beside[0].write_bytes(mutated(json.dumps(json.loads(beside[0].read_text())), draw))
        else:
            held = changed(load_file(weights), draw)
            weights = weights.with_suffix(".bin")
            torch.save(held, weights)
            if draw.random() < 0.3:
                data = weights.read_bytes()
                at = draw.randrange(len(data))
                weights.write_bytes(data[:at] + draw.choice((b"", b"\0" * 30, b"\xff" * 8)) + data[at + 8 :])
        try:
            LOADERS[name].put(copy.deepcopy(fresh(pipeline)), Checkpoint("m", 1, weights, checkpoint.lora))
        except Fault as error:
            assert "\n" not in str(error) and str(folder) in str(error), (n, kind, error)
            refused += 1
        shutil.rmtree(folder)
    assert OF_CHECKPOINTS / 10 < refused < OF_CHECKPOINTS * 0.95, "the mutations are all refused, or none is"


def fresh(pipeline: Any) -> Any:
    """What of a pipeline is put into."""
    parts = ("unet", "transformer")
    return SimpleNamespace(**{name: getattr(pipeline, name) for name in parts if hasattr(pipeline, name)})
