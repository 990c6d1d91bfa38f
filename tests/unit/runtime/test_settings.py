"""Variables and flags: every row of the table, precedence, refusals, --help."""

from __future__ import annotations

from pathlib import Path

import pytest
from higgs_runtime import flags, settings
from higgs_runtime.errors import SettingError
from higgs_runtime.settings import Settings
from higgs_runtime.settings_table import TABLE
from higgs_runtime.usage import help_text

from tests.unit.runtime.conftest import IMAGE


def read(*arguments: str, **variables: str) -> Settings:
    return settings.read(list(arguments), variables, IMAGE)


def refused(*arguments: str, **variables: str) -> SettingError:
    with pytest.raises(SettingError) as caught:
        read(*arguments, **variables)
    assert caught.value.exit_code == 2
    return caught.value


@pytest.fixture
def voices(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


# Field, default, a valid value as text and as a value, and invalid ones.
ROWS = [
    (
        "model",
        "bosonai/model",
        "me/my-model",
        "me/my-model",
        ["a b", "a\n/b", "/no/where", "./x", "a/b/c", "a--b", "-a/b", "s3://a/b", "~/x"],
    ),
    ("model_revision", "1" * 40, "v1.0", "v1.0", ["a b", "x" * 201]),
    ("audio_tokenizer", "bosonai/tokenizer", "me/codec", "me/codec", ["a b", "/no/where"]),
    ("audio_tokenizer_revision", "2" * 40, "main", "main", ["a b"]),
    ("semantic_model_revision", None, "b4b85f1", "b4b85f1", ["a b"]),
    (
        "served_model_name",
        ("higgs-audio-v2",),
        "tts-1 tts-1-hd",
        ("tts-1", "tts-1-hd"),
        ["a,b", "a b,c"],
    ),
    ("port", 8000, "80", 80, ["0", "65536", "http", "8000.0", "-1", "9" * 30]),
    ("health_port", 8000, "8080", 8080, ["0", "70000", "x"]),
    ("gpu_memory_utilization", None, "0.5", 0.5, ["0", "1.0", "0.99", "nan", "85%", "-0.5"]),
    ("max_model_len", None, "4096", 4096, ["511", "131073", "8k", "1e4"]),
    ("max_num_seqs", None, "32", 32, ["0", "4097", "many"]),
    ("tensor_parallel_size", 1, "2", 2, ["0", "17", "two"]),
    (
        "api_key",
        None,
        "0123456789abcdef",
        "0123456789abcdef",
        ["short", "with a space", "ümläutig"],
    ),
    ("voices_dir", None, "VOICES", "VOICES", ["/no/such/folder", "/"]),
    ("extra_arguments", None, "", None, ['--seed "1']),
    ("offline", False, "1", True, ["2", "maybe"]),
    ("warmup_seconds", None, "0", 0, ["-1", "3601", "1m"]),
    ("drain_seconds", 25, "60", 60, ["-1", "3601", "inf"]),
    ("keep_alive_seconds", 90, "5", 5, ["0", "86401", "75s"]),
    ("generate_port", None, "8888", 8888, ["0", "65536", "http"]),
    ("device", "gpu", "cpu", "cpu", ["tpu", "CPU"]),
    ("force", False, "yes", True, ["force"]),
    ("hf_home", None, "/data/hf", "/data/hf", ["a\x00b"]),
    ("hf_token", None, "hf_abc", "hf_abc", ["hf abc"]),
    ("public_key", None, "ssh-ed25519 AAAA me", "ssh-ed25519 AAAA me", []),
]


def test_every_row_has_a_test() -> None:
    assert {row.field for row in TABLE} == {name for name, *_ in ROWS}


@pytest.mark.parametrize(
    ("name", "default", "text", "value", "bad"), ROWS, ids=[r[0] for r in ROWS]
)
def test_row(
    name: str, default: object, text: str, value: object, bad: list[str], voices: str
) -> None:
    row = next(row for row in TABLE if row.field == name)
    if name != "extra_arguments":
        text, value = (voices, voices) if name == "voices_dir" else (text, value)
        assert getattr(read(), name) == default
        assert getattr(read(**{row.name: ""}), name) == default, "empty counts as unset"
        assert getattr(read(**{row.name: text}), name) == value
        if row.flag:
            assert getattr(read(row.flag, *text.split()), name) == value
            assert getattr(read(f"{row.flag}={text}"), name) == value
            assert getattr(read(row.flag, *text.split(), **{row.name: "1"}), name) == value
    for wrong in bad:
        error = refused(**{row.name: wrong})
        assert row.name in error.message and row.allowed in error.hint
        assert row.secret == (repr(wrong) not in error.message)
        if row.flag and name != "served_model_name":
            assert row.flag in refused(f"{row.flag}={wrong}").message


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", "  {} ", "\t{}\r"])
def test_whitespace_around_a_value_is_ignored(around: str, voices: str) -> None:
    """A secret made with `echo` ends with LF, and a file from Windows with CR and LF."""
    for name, _, text, value, _ in ROWS:
        row = next(row for row in TABLE if row.field == name)
        if name == "extra_arguments":
            assert read(**{row.name: around.format("--seed 1")}).arguments == ["--seed", "1"]
            continue
        text, value = (voices, voices) if name == "voices_dir" else (text, value)
        assert getattr(read(**{row.name: around.format(text)}), name) == value
        blank = read(**{row.name: around.format("")})
        assert getattr(blank, name) == getattr(read(), name), "whitespace alone counts as unset"


def test_revisions_follow_their_repository() -> None:
    assert read(HIGGS_MODEL="me/model").model_revision == "main"
    assert read(HIGGS_MODEL="bosonai/model").model_revision == "1" * 40
    assert read("--model", "me/model", "--revision", "v2").model_revision == "v2"
    assert read(HIGGS_AUDIO_TOKENIZER="me/codec").audio_tokenizer_revision == "main"
    assert read(HIGGS_MODEL_REVISION="main").model == "bosonai/model"


def test_existing_folders_are_allowed_as_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a b/c").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a b/c")
    for folder in (f"{tmp_path}/a b", "./", "../c", "gpt2", "me/my_model.v1"):
        assert read(HIGGS_MODEL=folder).model == folder


def test_health_port_follows_the_port() -> None:
    assert read("--port", "9000").health_port == 9000
    assert read(PORT="9000", PORT_HEALTH="9001").health_port == 9001


def test_host() -> None:
    assert read().host == "0.0.0.0"
    assert read("--host", "::1").host == "::1"
    assert "--host" in refused("--host", "my host").message


# --- quotes


@pytest.mark.parametrize("quote", ['"', "'"])
def test_quotes_of_an_env_file_are_refused(quote: str, voices: str) -> None:
    """docker run --env-file keeps them: the API key would have quotes that nobody knows."""
    for name, _, text, _, _ in ROWS:
        row = next(row for row in TABLE if row.field == name)
        value = f"{quote}{voices if name == 'voices_dir' else text}{quote}"
        error = refused(**{row.name: value})
        assert f"the value of {row.name} is enclosed in quotes" in error.message
        assert "--env-file keeps them" in error.hint and value not in error.message
        with pytest.raises(SettingError, match=row.name):
            settings.quoted({row.name: f" {value}\r\n"})
    for name in ("VLLM_API_KEY", "HIGGS_MAX_INPUT_CHARACTERS"):
        with pytest.raises(SettingError, match=f"the value of {name} is enclosed in quotes"):
            settings.quoted({name: f"{quote}1{quote}"})
    assert "--model" in refused(f"--model={quote}me/model{quote}").message


def test_quotes_of_other_variables_are_a_warning() -> None:
    environment = {
        "HF_ENDPOINT": '"https://hub"',
        "https_proxy": "'http://proxy'",
        "PS1": '"$ "',
        "HF_HUB_CACHE": '/a "b"',
        "VLLM_X": "'a' 'b'",
    }
    assert settings.quoted(environment) == ["HF_ENDPOINT", "https_proxy"]
    extra = "--chat-template 'a b' --hf-overrides '{\"a\": 1}'"
    assert settings.quoted({"HIGGS_EXTRA_ARGS": extra}) == []


def test_settings_of_the_patches_are_checked_before_the_start() -> None:
    settings.check_patch_settings({"HIGGS_MAX_REFERENCE_SECONDS": "45"})
    with pytest.raises(SettingError, match="HIGGS_MAX_REFERENCE_SECONDS") as caught:
        settings.check_patch_settings({"HIGGS_MAX_REFERENCE_SECONDS": "long"})
    assert caught.value.hint.startswith("allowed: a number")
    misspelt = settings.misspelt({"HIGGS_MAX_REFERENCE_SECOND": "1"})
    assert misspelt == {"HIGGS_MAX_REFERENCE_SECOND": "HIGGS_MAX_REFERENCE_SECONDS"}


# --- flags


def test_other_flags_are_passed_on_unchanged() -> None:
    found = read("--seed", "7", "--dtype=bfloat16", "--enforce-eager", "-q", "fp8", "--port", "1")
    assert found.arguments == ["--seed", "7", "--dtype=bfloat16", "--enforce-eager", "-q", "fp8"]
    assert found.given == {
        "--seed": "7", "--dtype": "bfloat16", "--enforce-eager": "", "--quantization": "fp8"
    }  # fmt: skip
    assert found.port == 1


@pytest.mark.parametrize(
    "flags",
    [("--quantization=fp8",), ("--quant", "fp8", "--seed", "1"), ("-q", "fp8"), ("-q=fp8",)],
)
def test_values_of_other_flags(flags: tuple[str, ...]) -> None:
    assert read(*flags).given["--quantization"] == "fp8"
    assert read("--seed", "1", "--quantization").given["--quantization"] == ""


def test_spellings_that_the_server_accepts() -> None:
    assert read("--max_model_len=2048").max_model_len == 2048
    assert read("--max_model_len", "2048").max_model_len == 2048
    assert read("-tp", "2").tensor_parallel_size == 2
    assert read("--gpu-memory-util", "0.5").gpu_memory_utilization == 0.5
    assert read("--served", "a", "b", "--seed", "1").served_model_name == ("a", "b")
    assert "--max-loras" in refused("--max-lo", "1").hint


def test_precedence_of_extra_arguments() -> None:
    found = read(HIGGS_EXTRA_ARGS="--port 9 --chat-template 'a b'", PORT="8")
    assert (found.port, found.arguments) == (9, ["--chat-template", "a b"])
    assert read("--port", "10", HIGGS_EXTRA_ARGS="--port 9").port == 10
    found = read("--seed", "2", HIGGS_EXTRA_ARGS="--seed 1")
    assert found.arguments == ["--seed", "1", "--seed", "2"], "the server uses the last"


def test_single_argument_with_all_flags() -> None:
    """RunPod's template has a single field for all arguments."""
    found = read(*flags.split(["--port 9 --chat-template 'a b'", "--seed", "1"]))
    assert (found.port, found.arguments) == (9, ["--chat-template", "a b", "--seed", "1"])
    assert flags.split([" --seed 1\n"]) == ["--seed", "1"]
    assert flags.split(["--seed=7 --max-num-seqs 4"]) == ["--seed=7", "--max-num-seqs", "4"]
    assert flags.split(["--seed=7 --model='a b'"]) == ["--seed=7", "--model=a b"]
    assert flags.split(["--seed=7\n--enforce-eager"]) == ["--seed=7", "--enforce-eager"]
    unchanged = ["--override-generation-config", '{"a": 1}', "--chat-template=a b", "",
                 '--hf-overrides={"a": "b --c"}', "--chat-template=it's - one"]  # fmt: skip
    assert flags.split(unchanged) == unchanged
    with pytest.raises(SettingError, match="cannot be read: No closing quotation"):
        flags.split(["--chat-template 'a b"])
    with pytest.raises(SettingError, match="begins with --api-key cannot be read") as caught:
        flags.split(["--api-key=secret99 --chat-template 'a b"])
    assert "secret99" not in caught.value.message


@pytest.mark.parametrize(
    ("flag", "hint"),
    [("--max-model-lne", "--max-model-len"), ("--no-such-thing-at-all-xyz", "--help"),
     ("--config", "HIGGS_EXTRA_ARGS")],
)  # fmt: skip
def test_unknown_flags_are_refused(flag: str, hint: str) -> None:
    error = refused(flag, "1")
    assert flag in error.message and hint in error.hint


def test_flag_without_a_value() -> None:
    assert "--port has no value" in refused("--port").message
    assert "--port has no value" in refused("--port", "--seed", "1").message


def test_misspelt_variables() -> None:
    environment = {"HIGGS_MAX_MODEL_LENGTH": "1", "HIGGS_API_KEY": "x", "HIGGS_TOTALLY_OTHER": "1",
                   "PATH": "/bin", "HIGGS_VOICE_DIR": "/x"}  # fmt: skip
    assert settings.misspelt(environment) == {
        "HIGGS_MAX_MODEL_LENGTH": "HIGGS_MAX_MODEL_LEN", "HIGGS_VOICE_DIR": "HIGGS_VOICES_DIR",
    }  # fmt: skip


# --- help


def test_help_is_one_screen_and_has_every_variable() -> None:
    text = help_text(IMAGE)
    lines = text.split("\n")
    assert len(lines) <= 48 and max(map(len, lines)) <= 80
    words = " ".join(text.split())
    for row in TABLE:
        assert any(line.startswith(f"{row.name} ") for line in lines)
        assert f"({row.allowed})" in words
        assert f" [{row.default}]" in words or row.default == "none"
    assert IMAGE.tag in lines[0] and help_text(None)
