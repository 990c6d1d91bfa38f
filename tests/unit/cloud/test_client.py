"""RunPod's client: errors, attempts, and what never leaves it."""

from __future__ import annotations

import logging
import time

import pytest

from higgs_image.cloud.runpod import client, schema
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.cloud.runpod.problems import BadRequestError
from higgs_image.errors import (
    CloudAuthError,
    CloudNotFoundError,
    CloudRefusedError,
    CloudUnavailableError,
    CreditError,
    HiggsError,
    UsageError,
)
from tests.support.runpod.server import KEY, READ_ONLY, ApiFault, FakeRunPod

TEMPLATE = schema.CreateTemplateRequest(name="x", image="ghcr.io/o/i:1")


def templates(account: RunPodClient) -> list[schema.Template]:
    return account.get("/v2/templates", schema.ListTemplatesResponse).templates


def create(account: RunPodClient) -> schema.Template:
    def find() -> schema.Template | None:
        return next((x for x in templates(account) if x.name == TEMPLATE.name), None)

    return account.create("/v2/templates", TEMPLATE, schema.Template, find)


def test_life_of_a_template(account: RunPodClient, runpod: FakeRunPod) -> None:
    made = create(account)
    assert templates(account) == [made]
    change = schema.UpdateTemplateRequest(image="ghcr.io/o/i:2")
    path = f"/v2/templates/{made.id}"
    assert account.change(path, change, schema.Template).image == "ghcr.io/o/i:2"
    assert runpod.requests[-1] == ("PATCH", path, {"image": "ghcr.io/o/i:2"})
    account.delete(path)
    account.delete(path)
    assert templates(account) == []


@pytest.mark.parametrize(
    ("status", "error", "hint"),
    [
        (400, BadRequestError, "correct what it names"),
        (401, CloudAuthError, "check RUNPOD_API_KEY"),
        (402, CreditError, "add credit"),
        (403, CloudAuthError, "write access"),
        (404, CloudNotFoundError, "check the id"),
        (409, CloudRefusedError, "not possible in its state"),
        (422, CloudRefusedError, "deploy/template.toml"),
        (429, CloudUnavailableError, "wait, or send fewer requests"),
        (500, CloudUnavailableError, "run again later"),
        (524, CloudUnavailableError, "run again later"),
        (301, CloudRefusedError, "correct what it names"),
        (0, CloudUnavailableError, "check the network"),
    ],
)
def test_each_status_is_an_error_with_a_hint(
    status: int, error: type[HiggsError], hint: str, account: RunPodClient, runpod: FakeRunPod
) -> None:
    runpod.faults = [
        ApiFault("GET", "/v2/templates", status, "it does not work", ["$.x: no", "$.y: neither"])
    ]
    with pytest.raises(HiggsError) as found:
        templates(account)
    assert type(found.value) is error and hint in found.value.hint
    assert "GET /v2/templates" in found.value.message
    if status:
        assert f"with {status}: it does not work: $.x: no; $.y: neither" in found.value.message


def test_every_class_of_errors_has_its_exit_code() -> None:
    kinds = (CloudAuthError, CloudRefusedError, CloudNotFoundError, CloudUnavailableError,
             CreditError)  # fmt: skip
    assert len({kind.exit_code for kind in kinds}) == len(kinds)


@pytest.mark.parametrize("detail", ["Insufficient balance", "your account is out of credit"])
def test_missing_credit_is_known_by_its_words(
    detail: str, account: RunPodClient, runpod: FakeRunPod
) -> None:
    runpod.faults = [ApiFault("GET", "/v2/templates", 400, detail)]
    with pytest.raises(CreditError, match=detail):
        templates(account)


def test_a_page_of_a_proxy_is_shown_as_text(account: RunPodClient, runpod: FakeRunPod) -> None:
    with pytest.raises(CloudNotFoundError, match=r"with 404: Bad gateway"):
        account.get("/proxy/none-8000/v2", schema.Template)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "1"}, 1.0),
        ({"RateLimit": '"minute";r=0;t=1, "hour";r=2800;t=1812'}, 1.0),
    ],
)
def test_a_rate_limit_is_waited_for(
    headers: dict[str, str], seconds: float, account: RunPodClient, runpod: FakeRunPod
) -> None:
    runpod.faults = [ApiFault("GET", "/v2/templates", 429, headers=headers, times=1)]
    begun = time.monotonic()
    assert templates(account) == []
    assert seconds <= time.monotonic() - begun < seconds + 1


def test_requests_are_tried_again_while_runpod_fails(
    account: RunPodClient, runpod: FakeRunPod
) -> None:
    runpod.faults = [ApiFault("GET", "", 503, times=1), ApiFault("GET", "", 0, times=2)]
    assert templates(account) == []


@pytest.mark.parametrize("lost", [True, False])
def test_a_lost_answer_does_not_make_two(
    lost: bool, account: RunPodClient, runpod: FakeRunPod
) -> None:
    runpod.faults = [ApiFault("POST", "/v2/templates", 0, lost=lost, times=1)]
    made = create(account)
    assert list(runpod.templates) == [made.id]


def test_invalid_requests_are_not_sent(account: RunPodClient, runpod: FakeRunPod) -> None:
    wrong = schema.UpdateTemplateRequest(disk=0)
    with pytest.raises(CloudRefusedError, match=r"Expected `int` >= 1 - at `\$.disk`"):
        account.change("/v2/templates/x", wrong, schema.Template)
    assert runpod.requests == []


def test_an_answer_of_another_form_is_an_error(account: RunPodClient) -> None:
    with pytest.raises(CloudRefusedError, match="something else than ListPodsResponse"):
        account.get("/v2/templates", schema.ListPodsResponse)


def test_a_key_without_rights_reads_and_does_not_write(
    runpod: FakeRunPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", READ_ONLY)
    account = client.from_environment()
    assert templates(account) == []
    with pytest.raises(CloudAuthError, match="403: access denied"):
        create(account)


@pytest.mark.parametrize("key", ["", "  ", "two words", "schl\u00fcssel"])
def test_no_key(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", key)
    with pytest.raises(CloudAuthError, match="RUNPOD_API_KEY is not") as found:
        client.from_environment()
    assert found.value.hint and "schl" not in found.value.message


@pytest.mark.parametrize("variable", ["RUNPOD_API_URL", "RUNPOD_PROXY_URL"])
def test_the_key_is_sent_over_https_only(
    variable: str, runpod: FakeRunPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://api.example.org/{pod}-{port}")
    with pytest.raises(UsageError, match="is not sent there"):
        client.from_environment()


def test_the_key_is_in_no_message_and_no_log(
    runpod: FakeRunPod, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even where RunPod repeats it."""
    caplog.set_level(logging.DEBUG)
    wrong = "rpa_WRONGWRONGWRONG"
    monkeypatch.setenv("RUNPOD_API_KEY", wrong)
    account = client.from_environment()
    with pytest.raises(CloudAuthError, match=r"invalid token \*\*\*"):
        templates(account)
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    account = client.from_environment()
    runpod.faults = [ApiFault("GET", "", 503, f"key {KEY}", times=2)]
    templates(account)
    for secret in (wrong, KEY):
        assert secret not in caplog.text + repr(account)


def test_a_redirection_is_not_followed(account: RunPodClient, runpod: FakeRunPod) -> None:
    """Another host would get the key."""
    with FakeRunPod() as other:
        runpod.faults = [ApiFault("GET", "", 302, headers={"Location": other.api + "/v2/pods"})]
        with pytest.raises(CloudRefusedError, match="302"):
            templates(account)
        assert other.requests == []
