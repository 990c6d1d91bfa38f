"""Variables and flags: every row of the table, what wins, what is refused, where it is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from higgs_runtime import settings
from higgs_runtime.errors import BadSetting
from higgs_runtime.settings import Settings

from higgs_image.workspace import PROJECT
from tests.unit.runtime.conftest import IMAGE


def read(*arguments: str, **variables: str) -> Settings:
    return settings.read(list(arguments), variables, IMAGE)


def refused(*arguments: str, **variables: str) -> BadSetting:
    with pytest.raises(BadSetting) as caught:
        read(*arguments, **variables)
    assert caught.value.exit_code == 2
    return caught.value


@pytest.fixture
def voices(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


# Row: field, default, a good value as text and as a value, and bad ones.
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
    ("warmup_seconds", 180, "0", 0, ["-1", "3601", "1m"]),
    ("drain_seconds", 25, "60", 60, ["-1", "3601", "inf"]),
    ("device", "gpu", "cpu", "cpu", ["tpu", "CPU"]),
    ("force", False, "yes", True, ["force"]),
    ("hf_home", None, "/data/hf", "/data/hf", ["a\x00b"]),
    ("hf_token", None, "hf_abc", "hf_abc", ["hf abc"]),
    ("public_key", None, "ssh-ed25519 AAAA me", "ssh-ed25519 AAAA me", []),
]


def test_every_row_has_a_test() -> None:
    assert [row.name for row in settings.TABLE] == [name for name, *_ in ROWS]


@pytest.mark.parametrize(
    ("name", "default", "text", "value", "bad"), ROWS, ids=[r[0] for r in ROWS]
)
def test_a_row(
    name: str, default: object, text: str, value: object, bad: list[str], voices: str
) -> None:
    row = next(row for row in settings.TABLE if row.name == name)
    if name != "extra_arguments":
        text, value = (voices, voices) if name == "voices_dir" else (text, value)
        assert getattr(read(), name) == default
        assert getattr(read(**{row.variable: ""}), name) == default, "empty counts as unset"
        assert getattr(read(**{row.variable: text}), name) == value
        if row.flag:
            assert getattr(read(row.flag, *text.split()), name) == value
            assert getattr(read(f"{row.flag}={text}"), name) == value
            assert getattr(read(row.flag, *text.split(), **{row.variable: "1"}), name) == value
    for wrong in bad:
        error = refused(**{row.variable: wrong})
        assert row.variable in error.message and row.values in error.hint
        assert row.secret == (repr(wrong) not in error.message)
        if row.flag and name != "served_model_name":
            assert row.flag in refused(f"{row.flag}={wrong}").message


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", "  {} ", "\t{}\r"])
def test_blanks_and_line_ends_around_a_value_are_no_part_of_it(around: str, voices: str) -> None:
    """A secret made by `echo` ends with a line, and a file of Windows has CR and LF."""
    for name, _, text, value, _ in ROWS:
        row = next(row for row in settings.TABLE if row.name == name)
        if name == "extra_arguments":
            assert read(**{row.variable: around.format("--seed 1")}).arguments == ["--seed", "1"]
            continue
        text, value = (voices, voices) if name == "voices_dir" else (text, value)
        assert getattr(read(**{row.variable: around.format(text)}), name) == value
        blank = read(**{row.variable: around.format("")})
        assert getattr(blank, name) == getattr(read(), name), "nothing but blanks counts as unset"


def test_revisions_follow_their_repository() -> None:
    assert read(HIGGS_MODEL="me/model").model_revision == "main"
    assert read(HIGGS_MODEL="bosonai/model").model_revision == "1" * 40
    assert read("--model", "me/model", "--revision", "v2").model_revision == "v2"
    assert read(HIGGS_AUDIO_TOKENIZER="me/codec").audio_tokenizer_revision == "main"
    assert read(HIGGS_MODEL_REVISION="main").model == "bosonai/model"


def test_folders_that_are_there_are_allowed_as_models(
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


# --- passing on


def test_other_flags_are_passed_on_as_they_are() -> None:
    found = read("--seed", "7", "--dtype=bfloat16", "--enforce-eager", "-q", "fp8", "--port", "1")
    assert found.arguments == ["--seed", "7", "--dtype=bfloat16", "--enforce-eager", "-q", "fp8"]
    assert found.given == {"--seed", "--dtype", "--enforce-eager"}
    assert found.port == 1


def test_spellings_that_the_server_knows() -> None:
    assert read("--max_model_len=2048").max_model_len == 2048
    assert read("--max_model_len", "2048").max_model_len == 2048
    assert read("-tp", "2").tensor_parallel_size == 2
    assert read("--gpu-memory-util", "0.5").gpu_memory_utilization == 0.5
    assert read("--served", "a", "b", "--seed", "1").served_model_name == ("a", "b")
    assert "--max-loras" in refused("--max-lo", "1").hint


def test_extra_arguments_win_over_variables_and_lose_against_flags() -> None:
    found = read(HIGGS_EXTRA_ARGS="--port 9 --chat-template 'a b'", PORT="8")
    assert (found.port, found.arguments) == (9, ["--chat-template", "a b"])
    assert read("--port", "10", HIGGS_EXTRA_ARGS="--port 9").port == 10
    found = read("--seed", "2", HIGGS_EXTRA_ARGS="--seed 1")
    assert found.arguments == ["--seed", "1", "--seed", "2"], "the server takes the last"


def test_all_arguments_in_one() -> None:
    """RunPod's template has one field for them, and a manifest is easily written so."""
    found = read(*settings.split(["--port 9 --chat-template 'a b'", "--seed", "1"]))
    assert (found.port, found.arguments) == (9, ["--chat-template", "a b", "--seed", "1"])
    assert settings.split([" --seed 1\n"]) == ["--seed", "1"]
    as_they_are = ["--override-generation-config", '{"a": 1}', "--chat-template=a b", ""]
    assert settings.split(as_they_are) == as_they_are
    with pytest.raises(BadSetting, match="cannot be read: No closing quotation"):
        settings.split(["--chat-template 'a b"])


@pytest.mark.parametrize(
    ("flag", "hint"),
    [("--max-model-lne", "--max-model-len"), ("--no-such-thing-at-all-xyz", "--help"),
     ("--config", "HIGGS_EXTRA_ARGS")],
)  # fmt: skip
def test_flags_that_the_server_does_not_know_are_refused_at_once(flag: str, hint: str) -> None:
    error = refused(flag, "1")
    assert flag in error.message and hint in error.hint


def test_a_flag_without_a_value() -> None:
    assert "--port has no value" in refused("--port").message
    assert "--port has no value" in refused("--port", "--seed", "1").message


def test_misspelt_variables() -> None:
    environment = {"HIGGS_MAX_MODEL_LENGTH": "1", "HIGGS_API_KEY": "x", "HIGGS_TOTALLY_OTHER": "1",
                   "PATH": "/bin", "HIGGS_VOICE_DIR": "/x"}  # fmt: skip
    assert settings.unknown(environment) == {
        "HIGGS_MAX_MODEL_LENGTH": "HIGGS_MAX_MODEL_LEN", "HIGGS_VOICE_DIR": "HIGGS_VOICES_DIR",
    }  # fmt: skip


# --- shown


def test_help_is_one_screen_and_has_every_variable() -> None:
    text = settings.help_text(IMAGE)
    lines = text.split("\n")
    assert len(lines) <= 48 and max(map(len, lines)) <= 80
    words = " ".join(text.split())
    for row in settings.TABLE:
        assert any(line.startswith(f"{row.variable} ") for line in lines)
        assert f"({row.values.replace('`', '')})" in words
        assert f" [{row.default}]" in words or row.default == "none"
    assert IMAGE.tag in lines[0] and settings.help_text(None)


def test_the_readme_has_the_same_table() -> None:
    """After a change: python -c 'from higgs_runtime import settings; print(settings.table())'."""
    assert settings.table() in (PROJECT / "docs" / "configuration.md").read_text()
