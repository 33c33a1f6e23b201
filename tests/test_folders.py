"""What commands write: never in the place of what is not theirs, complete or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.miniatures import __main__ as miniatures
from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.folders import MARKER, FolderError, check_writable, made_by, written
from pcpo_overlay.tools.miniature import flux_path

Capture = pytest.CaptureFixture[str]


def make(folder: Path, *files: str, command: str = "pcpo make") -> None:
    with written(folder, command) as scratch:
        for file in files:
            (scratch / file).parent.mkdir(parents=True, exist_ok=True)
            (scratch / file).write_text("made")


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_is_made_where_there_is_none_or_an_empty_one(tmp_path: Path) -> None:
    new, empty = tmp_path / "parent" / "new", tmp_path / "empty"
    empty.mkdir()
    for folder in (new, empty):
        assert not made_by(folder, "pcpo make")
        make(folder, "a", "deep/b")
        assert names(folder) == sorted(["a", "deep/b", MARKER])
        assert made_by(folder, "pcpo make") and not made_by(folder, "pcpo other")
        assert [
            path.name for path in folder.parent.iterdir() if path.name.startswith(f".{folder.name}")
        ] == []


def test_what_the_command_made_is_replaced(tmp_path: Path) -> None:
    make(tmp_path / "out", "old", "both")
    make(tmp_path / "out", "both", "new")
    assert names(tmp_path / "out") == sorted(["both", "new", MARKER])


def file_of_a_user(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")


def file_beside_what_was_made(folder: Path) -> None:
    make(folder, "a")
    (folder / "thesis.tex").write_text("years of work")


def folder_of_another_command(folder: Path) -> None:
    make(folder, "thesis.tex", command="pcpo other")


def empty_folder_inside(folder: Path) -> None:
    (folder / "thesis.tex").mkdir(parents=True)


def damaged_marker(folder: Path) -> None:
    make(folder, "thesis.tex")
    (folder / MARKER).write_text('{"command": "pcpo make", "files": 3}')


@pytest.mark.parametrize(
    "prepare",
    [
        file_of_a_user,
        file_beside_what_was_made,
        folder_of_another_command,
        empty_folder_inside,
        damaged_marker,
    ],
)
def test_anything_else_is_refused_by_name_and_kept(tmp_path: Path, prepare: Callable[[Path], None]) -> None:
    folder = tmp_path / "out"
    prepare(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(FolderError, match=r"out is there already and holds what `pcpo make` did not make \("):
        make(folder, "a")
    with pytest.raises(FolderError, match="move it away or choose another folder"):
        check_writable(folder, "pcpo make")
    assert (folder / "thesis.tex").exists()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_in_the_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for name in ("out", "nowhere"):
        with pytest.raises(FolderError, match="is no folder"):
            make(tmp_path / name, "a")
    assert (tmp_path / "out").read_text() == "mine"


def test_an_error_half_way_changes_nothing(tmp_path: Path) -> None:
    make(tmp_path / "out", "a")
    with pytest.raises(KeyboardInterrupt), written(tmp_path / "out", "pcpo make") as scratch:
        (scratch / "b").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path / "out") == sorted(["a", MARKER])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_user_puts_there_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"thesis\.tex"), written(tmp_path / "out", "pcpo make"):
        file_of_a_user(tmp_path / "out")
    assert names(tmp_path / "out") == ["thesis.tex"]


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    make(tmp_path / "link", "a")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "a").exists()


# ---------------------------------------------------------------- the commands


@pytest.fixture
def thesis(tmp_path: Path) -> Path:
    folder = tmp_path / "thesis"
    file_of_a_user(folder)
    return folder


def refused(code: int, expected: int, thesis: Path, capsys: Capture) -> None:
    out, err = capsys.readouterr()
    assert (code, out) == (expected, "")
    assert err.count("\n") == 1 and f"{thesis} is there already" in err
    assert names(thesis) == ["thesis.tex"]


def test_miniature_prepare(thesis: Path, capsys: Capture) -> None:
    refused(main(["miniature", "prepare", str(thesis)]), 1, thesis, capsys)


def test_embed_and_a_folder_of_its_old_scratch_name(tmp_path: Path, thesis: Path, capsys: Capture) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n")
    command = ["embed", "flux", "--model", str(flux_path()), "--prompts", str(prompts), "--max-length", "8"]
    refused(main([*command, "--out", str(thesis)]), 1, thesis, capsys)
    kept = tmp_path / "emb.new"
    file_of_a_user(kept)
    assert main([*command, "--out", str(tmp_path / "emb")]) == 0
    assert names(kept) == ["thesis.tex"] and (tmp_path / "emb" / "videos2caption.json").exists()


@pytest.mark.parametrize("model", ["sd", "sd3", "flux", "classifier"])
def test_training_a_miniature(thesis: Path, capsys: Capture, model: str) -> None:
    """Before the first step, not after the last."""
    refused(miniatures.main([model, "--out", str(thesis), "--steps", "1"]), 1, thesis, capsys)


def test_a_miniature_trained_for_a_step_is_checked(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "sd"
    shipped = str(flux_path().parent / "sd")
    for _ in range(2):  # the second replaces the first
        assert miniatures.main(["sd", "--out", str(out), "--steps", "1", "--vae", shipped]) == 0
    assert f"pcpo miniature check sd --path {out}" in capsys.readouterr().out
    check = ["miniature", "check", "sd", "--path", str(out), "--samples", "20", "--steps", "1"]
    assert main(check) == 1
    assert "read as prompted" in capsys.readouterr().err
    reader = tmp_path / "classifier.safetensors"
    assert miniatures.main(["classifier", "--out", str(reader), "--steps", "1"]) == 0
    assert "of 360 held-out real digits" in capsys.readouterr().out and reader.exists()
