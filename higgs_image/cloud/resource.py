"""A template or an endpoint at RunPod: compared, which only reads, then written and read back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from higgs_image.cloud.image_rules import RentedImage
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.cloud.runpod.schema import ListRegistriesResponse, Request, Resource
from higgs_image.errors import CloudRefusedError, TemplateDriftError, UsageError
from higgs_image.release import records
from higgs_image.release.actor import actor
from higgs_image.release.journal import Journal
from higgs_image.release.records import EndpointUpdate, TemplateUpdate

log = logging.getLogger(__name__)

PROVIDER = "runpod"
HIDDEN = "(another value)"
"""Shown for a variable at RunPod: somebody may have typed a secret there."""
_EMPTY: tuple[object, ...] = (None, "", [], {})


@dataclass(frozen=True)
class ResourceKind:
    """Templates, or endpoints.

    Attributes:
        word: for one of them.
        path: of the API.
        answer: type of one.
        listed: reads all of the account.
        change: type of a request that changes one: its fields are compared.
        record: type of the journal's entry.
        link: its page, with {id}.
    """

    word: str
    path: str
    answer: type[Resource]
    listed: Callable[[RunPodClient], Sequence[Resource]]
    change: type[Request]
    record: type[TemplateUpdate] | type[EndpointUpdate]
    link: str

    def find(self, account: RunPodClient, name: str) -> Resource | None:
        """Return the one of a name; None: there is none.

        Raises:
            UsageError: there are several.
        """
        found = [x for x in self.listed(account) if x.name == name]
        if len(found) > 1:
            raise UsageError(
                f"RunPod has {len(found)} {self.word}s {name!r}: {', '.join(x.id for x in found)}",
                "rename or delete all but one, or change name in deploy/template.toml",
            )
        return found[0] if found else None


@dataclass(frozen=True)
class FieldChange:
    """A field that differs.

    Attributes:
        field: name; of a part of it `env.NAME`.
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
class ResourcePlan:
    """What would be done.

    Attributes:
        kind: of it.
        name: of it.
        image: that it is to name.
        id: at RunPod; None: it is to be made.
        changes: fields that differ.
        wanted: the whole of it.
    """

    kind: ResourceKind
    name: str
    image: RentedImage
    id: str | None
    changes: tuple[FieldChange, ...]
    wanted: Request

    @property
    def nothing_to_do(self) -> bool:
        """Whether RunPod has it so already."""
        return self.id is not None and not self.changes

    def text(self) -> str:
        """Return the plan as a person reads it."""
        what = f"the {self.kind.word} {self.name!r}"
        if self.nothing_to_do:
            return f"nothing to do: {what} ({self.id}) is up to date"
        head = f"would change {self.id}" if self.id else "would make"
        return "\n".join([f"{head}: {what}", *(f"  {x.text()}" for x in self.changes)])

    def plain(self) -> dict[str, object]:
        """Return the plan as JSON has it."""
        return {
            self.kind.word: self.id, "name": self.name, "image": self.image.reference,
            "changes": self.changes,
        }  # fmt: skip

    def require_agreement(self) -> None:
        """Refuse what is out of date.

        Raises:
            TemplateDriftError: it is missing, or differs; every field is named.
        """
        word = self.kind.word
        if self.id is None:
            raise TemplateDriftError(
                f"RunPod has no {word} {self.name!r}", f"make it: ./inv {word}-apply"
            )
        if self.changes:
            raise TemplateDriftError(
                f"the {word} {self.id} differs: " + "; ".join(x.text() for x in self.changes),
                f"./inv {word}-apply; or, if the {word} is right, change deploy/template.toml",
            )


@dataclass(frozen=True)
class AppliedResource:
    """What was done.

    Attributes:
        kind: template or endpoint.
        id: at RunPod.
        name: of it.
        image: that it names, read back.
        changed: fields that were changed.
        record: tag of the journal's record; empty: there was nothing to do.
        link: its page.
    """

    kind: str
    id: str
    name: str
    image: str
    changed: tuple[str, ...]
    record: str
    link: str

    def text(self) -> str:
        """Return the report as a person reads it."""
        done = "" if self.record else " already"
        return f"{self.kind} {self.name!r} ({self.id}) names {self.image}{done}\n{self.link}"


def compare(
    kind: ResourceKind, present: Resource | None, wanted: Request, name: str, image: RentedImage
) -> ResourcePlan:
    """Return how what RunPod has differs from what is wanted."""
    changes = tuple(_changes(kind, present, wanted))
    return ResourcePlan(kind, name, image, present.id if present else None, changes, wanted)


def apply(account: RunPodClient, history: Journal, planned: ResourcePlan) -> AppliedResource:
    """Write what differs, read it back, and write it down.

    Args:
        account: at RunPod.
        history: the journal of the image's repository.
        planned: what to do.

    Raises:
        CloudRefusedError: it reads back otherwise.
        HiggsError: RunPod refused it; run again to go on.
    """
    kind, name, id_ = planned.kind, planned.name, planned.id
    fields = tuple(dict.fromkeys(x.field.partition(".")[0] for x in planned.changes))
    if id_ is None:
        made = account.create(
            kind.path, planned.wanted, kind.answer, lambda: kind.find(account, name)
        )
        id_, fields = made.id, ()
    elif fields:
        wanted = msgspec.to_builtins(planned.wanted)
        change = msgspec.convert({x: wanted[x] for x in fields}, kind.change)
        account.change(f"{kind.path}/{id_}", change, kind.answer)
    back = account.get(f"{kind.path}/{id_}", kind.answer)
    if left := list(_changes(kind, back, planned.wanted)):
        raise CloudRefusedError(
            f"the {kind.word} {id_} reads back otherwise: {'; '.join(x.text() for x in left)}",
            "somebody else changed it at the same time, or RunPod ignores the field: run it again",
        )
    tag = ""
    if not planned.nothing_to_do:
        entry = history.write(
            kind.record(
                digest=planned.image.digest, at=records.now(), by=actor(), provider=PROVIDER,
                id=id_, image=back.image, fields=list(fields),
            )
        )  # fmt: skip
        tag = entry.tag
        log.info("%s: %s names %s", kind.word, id_, back.image)
    return AppliedResource(kind.word, id_, name, back.image, fields, tag, kind.link.format(id=id_))


def require_login(account: RunPodClient, login: str) -> None:
    """Refuse a login for the image's registry that RunPod does not have.

    Raises:
        UsageError: it does not; the message lists those that it has.
    """
    if not login:
        return
    known = account.get("/v2/registries", ListRegistriesResponse).registries
    if login not in [x.id for x in known]:
        names = ", ".join(f"{x.id} ({x.name})" for x in known) or "none"
        raise UsageError(
            f"registry_login: RunPod has no registry login {login!r}; available: {names}",
            "add it in RunPod's console (Settings, Container Registry Auth), or name another",
        )


def _changes(kind: ResourceKind, present: Resource | None, wanted: Request) -> list[FieldChange]:
    fields = {x.encode_name for x in msgspec.structs.fields(kind.change)}
    now: dict[str, Any] = msgspec.to_builtins(present) if present else {}
    found = []
    for field, value in msgspec.to_builtins(wanted).items():
        if field not in fields:
            continue
        if field == "env":
            found += _variables(now.get(field) or {}, value)
        elif isinstance(value, dict):  # RunPod takes an empty one for "as it is"
            parts = now.get(field) or {}
            found += [
                FieldChange(f"{field}.{part}", parts.get(part), wish)
                for part, wish in value.items()
                if not _same(parts.get(part), wish)
            ]
        elif not _same(now.get(field), value):
            found.append(FieldChange(field, now.get(field), value))
    return found


def _same(now: Any, wanted: Any) -> bool:
    if isinstance(now, list) and isinstance(wanted, list):
        return sorted(now) == sorted(wanted)
    return now == wanted or (now in _EMPTY and wanted in _EMPTY)


def _variables(now: dict[str, str], wanted: dict[str, str]) -> list[FieldChange]:
    return [
        FieldChange(f"env.{name}", HIDDEN if name in now else None, wanted.get(name))
        for name in sorted(now.keys() | wanted.keys())
        if now.get(name) != wanted.get(name)
    ]


def _shown(value: Any) -> str:
    return "nothing" if value in _EMPTY else str(value)
