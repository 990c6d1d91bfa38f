"""The template at RunPod: planned, which only reads, then applied, journalled and read back."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import msgspec

from higgs_image.cloud import image_rules
from higgs_image.cloud.description import TemplateDescription
from higgs_image.cloud.image_rules import RentedImage
from higgs_image.cloud.runpod import render
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.cloud.runpod.schema import (
    CreateTemplateRequest,
    ListRegistriesResponse,
    ListTemplatesResponse,
    Template,
    UpdateTemplateRequest,
)
from higgs_image.errors import CloudRefusedError, TemplateDriftError, UsageError
from higgs_image.release import records
from higgs_image.release.actor import actor
from higgs_image.release.journal import Journal
from higgs_image.release.records import TemplateUpdate

log = logging.getLogger(__name__)

PROVIDER = "runpod"
PATH = "/v2/templates"
HIDDEN = "(another value)"
"""Shown for a variable at RunPod: somebody may have typed a secret there."""


@dataclass(frozen=True)
class FieldChange:
    """A field of the template that differs.

    Attributes:
        field: name; of a variable `env.NAME`.
        now: at RunPod; None: it is not there.
        wanted: by this project; None: it is not wanted.
    """

    field: str
    now: Any
    wanted: Any

    def text(self) -> str:
        """Return it as a person reads it."""
        return f"{self.field}: {_shown(self.now)} -> {_shown(self.wanted)}"


@dataclass(frozen=True)
class TemplatePlan:
    """What would be done to a template.

    Attributes:
        name: of the template.
        image: that it is to name.
        template: its id; None: it is to be made.
        changes: fields that differ.
        wanted: the whole template.
    """

    name: str
    image: RentedImage
    template: str | None
    changes: tuple[FieldChange, ...]
    wanted: CreateTemplateRequest

    @property
    def nothing_to_do(self) -> bool:
        """Whether RunPod has it so already."""
        return self.template is not None and not self.changes

    def text(self) -> str:
        """Return the plan as a person reads it."""
        if self.nothing_to_do:
            return f"nothing to do: the template {self.name!r} ({self.template}) is as it should be"
        head = f"would change {self.template}" if self.template else "would make"
        lines = [f"{head}: the template {self.name!r}", *(f"  {x.text()}" for x in self.changes)]
        return "\n".join(lines)


@dataclass(frozen=True)
class AppliedTemplate:
    """What was done to a template.

    Attributes:
        template: its id.
        name: of it.
        image: that it names, read back.
        changed: fields that were changed.
        record: tag of the journal's record; empty: there was nothing to do.
    """

    template: str
    name: str
    image: str
    changed: tuple[str, ...]
    record: str

    @property
    def link(self) -> str:
        """The page that deploys a pod of it."""
        return f"https://console.runpod.io/deploy?template={self.template}"

    def text(self) -> str:
        """Return the report as a person reads it."""
        done = "" if self.record else " already"
        return f"template {self.name!r} ({self.template}) names {self.image}{done}\n{self.link}"


def plan(
    account: RunPodClient,
    description: TemplateDescription,
    image: RentedImage,
    *,
    serverless: bool = False,
) -> TemplatePlan:
    """Compare the template at RunPod with the description. Reads only.

    Args:
        account: at RunPod.
        description: the container.
        image: that the template is to name.
        serverless: the variant for workers behind a load balancer.

    Raises:
        UsageError: two templates have the name, or RunPod does not have the registry's login.
        CloudRefusedError: the description is not valid for RunPod.
        HiggsError: RunPod refused the request or did not answer.
    """
    wanted = render.template(description, image.reference, serverless=serverless)
    _require_login(account, description.image.registry_login)
    present = _find(account, wanted.name)
    changes = tuple(_changes(present, wanted))
    return TemplatePlan(wanted.name, image, present.id if present else None, changes, wanted)


def plan_for(
    account: RunPodClient,
    description: TemplateDescription,
    history: Journal,
    what: str,
    *,
    serverless: bool = False,
) -> TemplatePlan:
    """Plan the template for an image of a repository: see `plan`.

    Args:
        account: at RunPod.
        description: the container.
        history: the journal of the image's repository.
        what: a digest or tag.
        serverless: the variant for workers behind a load balancer.

    Raises:
        HiggsError: there is no such image, or RunPod cannot pull it or has no GPU for it.
    """
    image_rules.require_reachable(history.repository, account.api)
    image = image_rules.find(history, what, description)
    return plan(account, description, image, serverless=serverless)


def apply(account: RunPodClient, history: Journal, planned: TemplatePlan) -> AppliedTemplate:
    """Write what differs, read it back, and write it down.

    Args:
        account: at RunPod.
        history: the journal of the image's repository.
        planned: what to do.

    Raises:
        CloudRefusedError: it reads back otherwise.
        HiggsError: RunPod refused it; run again to go on.
    """
    if planned.template is not None and planned.nothing_to_do:
        return AppliedTemplate(planned.template, planned.name, planned.wanted.image, (), "")
    fields = tuple(dict.fromkeys(x.field.partition(".")[0] for x in planned.changes))
    if planned.template is None:
        made = account.create(PATH, planned.wanted, Template, lambda: _find(account, planned.name))
        template, fields = made.id, ()
    else:
        template = planned.template
        wanted = msgspec.to_builtins(planned.wanted)
        change = msgspec.convert({x: wanted[x] for x in fields}, UpdateTemplateRequest)
        account.change(f"{PATH}/{template}", change, Template)
    back = account.get(f"{PATH}/{template}", Template)
    if left := list(_changes(back, planned.wanted)):
        raise CloudRefusedError(
            f"the template {template} reads back otherwise: {'; '.join(x.text() for x in left)}",
            "somebody else changed it at the same time, or RunPod ignores the field: run it again",
        )
    entry = history.write(
        TemplateUpdate(
            digest=planned.image.digest, at=records.now(), by=actor(), provider=PROVIDER,
            template=template, image=back.image, fields=list(fields),
        )
    )  # fmt: skip
    log.info("template: %s names %s", template, back.image)
    return AppliedTemplate(template, planned.name, back.image, fields, entry.tag)


def require_agreement(planned: TemplatePlan) -> None:
    """Refuse a template that is not as it should be.

    Raises:
        TemplateDriftError: it is missing, or differs; every field is named.
    """
    if planned.template is None:
        raise TemplateDriftError(
            f"RunPod has no template {planned.name!r}", "make it: ./inv template-apply"
        )
    if planned.changes:
        raise TemplateDriftError(
            f"the template {planned.template} differs: "
            + "; ".join(x.text() for x in planned.changes),
            "./inv template-apply; or, if the template is right, change deploy/template.toml",
        )


def _find(account: RunPodClient, name: str) -> Template | None:
    found = [x for x in account.get(PATH, ListTemplatesResponse).templates if x.name == name]
    if len(found) > 1:
        raise UsageError(
            f"RunPod has {len(found)} templates {name!r}: {', '.join(x.id for x in found)}",
            "rename or delete all but one, or change name in deploy/template.toml",
        )
    return found[0] if found else None


def _require_login(account: RunPodClient, login: str) -> None:
    if not login:
        return
    known = account.get("/v2/registries", ListRegistriesResponse).registries
    if login not in [x.id for x in known]:
        names = ", ".join(f"{x.id} ({x.name})" for x in known) or "none"
        raise UsageError(
            f"registry_login: RunPod has no registry login {login!r}; available: {names}",
            "add it in RunPod's console (Settings, Container Registry Auth), or name another",
        )


def _changes(present: Template | None, wanted: CreateTemplateRequest) -> list[FieldChange]:
    new: dict[str, Any] = msgspec.to_builtins(wanted)
    now: dict[str, Any] = msgspec.to_builtins(present) if present else {}
    found = []
    for field, value in new.items():
        if field == "env":
            found += _variables(now.get(field, {}), value)
        elif field == "mounts" and not value:
            continue  # RunPod takes an empty one for "as it is"
        elif field not in now or now[field] != value:
            found.append(FieldChange(field, now.get(field), value))
    return found


def _variables(now: dict[str, str], wanted: dict[str, str]) -> list[FieldChange]:
    return [
        FieldChange(f"env.{name}", HIDDEN if name in now else None, wanted.get(name))
        for name in sorted(now.keys() | wanted.keys())
        if now.get(name) != wanted.get(name)
    ]


def _shown(value: Any) -> str:
    return "nothing" if value in (None, "", [], {}) else str(value)
