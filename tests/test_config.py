"""The one parser behind the ``PCPO`` variable and the ``--pcpo`` flag."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from pcpo_overlay.config import (
    MODES,
    PRECISIONS,
    TAPES,
    VARIANCES,
    WEIGHTS,
    ZETAS,
    PCPOConfig,
    PCPOError,
    parse,
    resolve,
)

OPTION_NAMES = "weights, power, variance, w_star, zeta, precision, unique_prompts, tape, track, alarms"


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_parses(mode: str) -> None:
    config = parse(mode)
    full = mode == "full"
    assert config == PCPOConfig(
        mode=mode,
        weights="proportional" if full else "native",
        variance="auto" if full else "native",
        w_star=None,
        zeta="schedule",
        precision="upstream",
    )
    assert config.active == (mode in ("log", "match", "full"))
    assert config.matching == (mode in ("match", "full"))
    assert config.recording == (mode != "off")
    assert config.reshapes_variance == full


def test_the_ladder_is_complete() -> None:
    assert MODES == ("off", "observe", "log", "match", "full")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("weights", value) for value in WEIGHTS if value != "power"),
        *(("variance", value) for value in VARIANCES),
        *(("zeta", value) for value in ZETAS),
        *(("precision", value) for value in PRECISIONS),
        *(("tape", value) for value in TAPES if value != "off"),
    ],
)
def test_every_option_of_full_reaches_its_field(name: str, value: str) -> None:
    config = parse(f"full,{name}={value}")
    assert getattr(config, name) == value
    others = {k: v for k, v in config.as_dict().items() if k != name}
    assert others == {k: v for k, v in parse("full").as_dict().items() if k != name}


@pytest.mark.parametrize("text", ["5", "5.0", "4.5", "1e2"])
def test_w_star(text: str) -> None:
    assert parse(f"full,w_star={text}").w_star == float(text)


@pytest.mark.parametrize("mode", ["observe", "log"])
@pytest.mark.parametrize("where", TAPES)
def test_the_tape_of_modes_that_match_nothing(mode: str, where: str) -> None:
    assert parse(f"{mode},tape={where}").tape == where


@pytest.mark.parametrize("mode", ["match", "full"])
def test_matching_needs_a_tape(mode: str) -> None:
    with pytest.raises(PCPOError, match="nothing to match; it is for observe and log"):
        parse(f"{mode},tape=off")


@pytest.mark.parametrize("mode", ["log", "match", "full"])
def test_precision_acts_in_every_active_mode(mode: str) -> None:
    assert parse(f"{mode},precision=match").precision == "match"


def test_options_combine_in_any_order() -> None:
    config = parse("full,weights=uniform,variance=native,zeta=trained,precision=match")
    assert config == parse("full,precision=match,zeta=trained,variance=native,weights=uniform")
    assert config == PCPOConfig("full", "uniform", "native", None, "trained", "match")
    assert not config.reshapes_variance


@pytest.mark.parametrize("text", ["full,w_star=5", " full , w_star = 5 ", "FULL,W_STAR=5"])
def test_spaces_and_case_do_not_matter(text: str) -> None:
    assert parse(text) == PCPOConfig("full", "proportional", "paper", 5.0)


@pytest.mark.parametrize("text", ["", "  ", "off"])
def test_nothing_is_off(text: str) -> None:
    assert parse(text) == PCPOConfig()


@pytest.mark.parametrize("text", ["ful", "on", "1", "true", ",full", "full;weights=native"])
def test_an_unknown_mode_lists_the_modes(text: str) -> None:
    with pytest.raises(PCPOError, match="choose one of off, observe, log, match, full"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "full,weight=native",
        "full,weights",
        "full,uniform",
        "full,",
        "full,=native",
        "full,mode=off",
        "full,full",
    ],
)
def test_an_unknown_option_lists_the_options(text: str) -> None:
    with pytest.raises(PCPOError, match=f"name one of {OPTION_NAMES}"):
        parse(text)


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("weights", "proportional, uniform, native, power"),
        ("variance", "auto, paper, native"),
        ("zeta", "schedule, trained"),
        ("precision", "upstream, match"),
    ],
)
@pytest.mark.parametrize("value", ["wrong", ""])
def test_an_unknown_value_lists_the_choices(name: str, choices: str, value: str) -> None:
    with pytest.raises(PCPOError, match=f"{name}={value} is not a choice; choose one of {choices}$"):
        parse(f"full,{name}={value}")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "-inf", "x", ""])
def test_w_star_must_be_a_positive_number(value: str) -> None:
    with pytest.raises(PCPOError, match="w_star must be a positive number"):
        parse(f"full,w_star={value}")


@pytest.mark.parametrize("option", ["weights=native", "variance=paper", "w_star=5", "zeta=trained"])
@pytest.mark.parametrize("mode", ["off", "observe", "log", "match"])
def test_an_option_that_changes_nothing_is_refused(mode: str, option: str) -> None:
    with pytest.raises(PCPOError, match=f"changes nothing in mode '{mode}'; it acts in full$"):
        parse(f"{mode},{option}")


@pytest.mark.parametrize("mode", ["off", "observe"])
def test_precision_is_refused_where_upstream_is_untouched(mode: str) -> None:
    with pytest.raises(PCPOError, match=r"it acts in log, match, full$"):
        parse(f"{mode},precision=match")


def test_w_star_without_the_papers_variance_is_refused() -> None:
    with pytest.raises(PCPOError, match="drop one of the two"):
        parse("full,variance=native,w_star=5")


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(PCPOError, match="'weights' is given twice"):
        parse("full,weights=native,weights=uniform")


def test_an_error_is_a_value_error_of_one_line_that_names_its_source() -> None:
    for flag, environ, start in (("wrong", {}, "--pcpo='wrong'"), (None, {"PCPO": "wrong"}, "PCPO='wrong'")):
        with pytest.raises(ValueError) as error:
            resolve(flag, environ)
        message = str(error.value)
        assert message.startswith(start) and "\n" not in message


def test_the_flag_wins_over_the_variable() -> None:
    environ = {"PCPO": "full"}
    assert resolve("match", environ).mode == "match"
    assert resolve("off", environ).mode == "off"
    # Also a broken variable does not reach a run whose flag is right.
    assert resolve("log", {"PCPO": "nonsense"}).mode == "log"


def test_the_variable_acts_where_no_flag_is_given() -> None:
    assert resolve(None, {"PCPO": "full,weights=uniform"}).weights == "uniform"
    assert resolve(None, {}) == PCPOConfig()


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCPO", "observe")
    assert resolve().mode == "observe"
    assert resolve("log").mode == "log"
    monkeypatch.delenv("PCPO")
    assert resolve().mode == "off"


@pytest.mark.parametrize("mode", ["observe", "log", "match", "full"])
def test_unique_prompts_acts_wherever_something_is_recorded(mode: str) -> None:
    assert parse(f"{mode},unique_prompts=true").unique_prompts is True
    assert parse(f"{mode},unique_prompts=false") == parse(mode)
    assert parse(mode).unique_prompts is False
    assert ",unique_prompts=true" in str(parse(f"{mode},unique_prompts=true"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("off,unique_prompts=true", "changes nothing in mode 'off'"),
        ("full,unique_prompts=1", "choose one of true, false"),
        ("full,weights=native,zeta=trained", "weights=native has none to set"),
        ("off,track=false", "changes nothing in mode 'off'"),
        ("off,alarms=false", "changes nothing in mode 'off'"),
        ("observe,track=wandb", "choose one of true, false"),
    ],
)
def test_flow_options_that_would_change_nothing(text: str, says: str) -> None:
    with pytest.raises(PCPOError, match=says):
        parse(text)


def test_a_configuration_is_frozen() -> None:
    config = parse("full")
    with pytest.raises(FrozenInstanceError):
        config.mode = "off"  # type: ignore[misc]


@pytest.mark.parametrize("text", ["full", "full,weights=uniform,w_star=5", "match,precision=match"])
def test_a_configuration_prints_all_it_resolves_to(text: str) -> None:
    config = parse(text)
    printed = str(config)
    assert printed.startswith(config.mode)
    for name, value in config.as_dict().items():
        if name != "mode" and value is not None and not isinstance(value, bool):
            assert f"{name}={value}" in printed
    assert "track" not in printed and "alarms" not in printed  # they are told where they are not as usual
    assert str(parse(f"{text},track=false")) == f"{printed},track=false"


@pytest.mark.parametrize("power", ["1", "0", "-0.5", "2e0"])
def test_weights_to_a_power(power: str) -> None:
    config = parse(f"full,weights=power,power={power}")
    assert (config.weights, config.power) == ("power", float(power))
    assert parse(str(config)) == config
    assert config.as_dict()["power"] == float(power)
    assert "power" not in parse("full").as_dict()  # as runs of before have it


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("full,weights=power", "weights=power and power=P go together"),
        ("full,power=0.5", "weights=power and power=P go together"),
        ("full,weights=uniform,power=0.5", "weights=power and power=P go together"),
        ("full,weights=power,power=much", "power must be a number, got 'much'"),
        ("full,weights=power,power=inf", "power must be a number, got 'inf'"),
        ("match,power=1", "changes nothing in mode 'match'"),
    ],
)
def test_powers_that_are_none(text: str, says: str) -> None:
    with pytest.raises(PCPOError, match=says):
        parse(text)


def test_a_window_sums_over_the_steps_that_it_can_reach() -> None:
    assert parse("full").on("flow_grpo_sd3_fast").zeta == "trained"
    assert parse("full,zeta=schedule").on("flow_grpo_sd3_fast").zeta == "schedule"
    assert parse("full").on("flow_grpo").zeta == "schedule"
