"""What an image needs before a template may name it, or a pod may run it."""

from __future__ import annotations

from dataclasses import dataclass

from higgs_image.cloud.description import TemplateDescription
from higgs_image.errors import (
    RegistryAuthError,
    ReleaseRefusedError,
    UsageError,
)
from higgs_image.labels import LABEL, VARIANT
from higgs_image.oci.artifacts import Repository
from higgs_image.release import evidence, move_plan, policy
from higgs_image.release.journal import Journal
from higgs_image.release.promote import PromotionConditions

BLACKWELL = 10
"""Major number of the compute capability from which an image needs CUDA 12.8."""


@dataclass(frozen=True)
class RentedImage:
    """An image that can be pulled by a provider.

    Attributes:
        digest: of its manifest.
        reference: its full name for the provider.
        size: compressed size of its layers, in bytes.
        gpus: compute capabilities that it has code for; empty: those before Blackwell.
        variant: of the image; empty: the default one.
    """

    digest: str
    reference: str
    size: int
    gpus: frozenset[str]
    variant: str = ""


def find(
    history: Journal,
    what: str,
    description: TemplateDescription,
    *,
    floating: bool | None = None,
) -> RentedImage:
    """Return an image as a provider is told of it.

    Args:
        history: the journal of its repository.
        what: a digest or tag.
        description: how it is to be named, and the GPUs it is to run on, of all variants.
        floating: name it by its floating tag alone; None: as the description says.

    Raises:
        RegistryNotFoundError: the tag or digest does not exist.
        RegistryAuthError: it is not public, and no login is named.
        ReleaseRefusedError: it has no code for GPUs that the description allows.
        UsageError: the description lacks its variant.
    """
    repository = history.repository
    digest, manifest = move_plan.find_image(repository, what)
    if not description.image.registry_login and not repository.is_public(digest):
        raise RegistryAuthError(
            f"{repository.reference(digest)} is not public: the provider cannot pull it",
            "make the package public in its registry, or name the provider's login for it: "
            "registry_login in deploy/template.toml",
        )
    labels = repository.labels(digest)
    gpus = frozenset(str(labels.get(LABEL + "gpus", "")).split())
    variant = str(labels.get(VARIANT, ""))
    _require_code(repository.reference(digest), gpus, description.for_variant(variant))
    if floating is None:
        floating = description.image.reference == "floating"
    if floating:
        name = repository.reference(move_plan.floating_tag(manifest, labels))
    else:
        tag = _immutable_tag(history, digest)
        name = f"{repository.name}{':' * bool(tag)}{tag}@{digest}"
    size = sum(int(layer["size"]) for layer in manifest["layers"])
    return RentedImage(digest, name, size, gpus, variant)


def has_code(gpus: frozenset[str], capability: str) -> bool:
    """Tell whether an image has code for a compute capability.

    Args:
        gpus: that it has code for; empty: for all before Blackwell.
        capability: such as 8.9.
    """
    if gpus:
        return capability in gpus
    return int(capability.partition(".")[0]) < BLACKWELL


def require_promotable(history: Journal, digest: str, conditions: PromotionConditions) -> None:
    """Refuse an image that a floating tag may not name either; force does not count here.

    Raises:
        ReleaseRefusedError: it did not pass its smoke test on a GPU, or its origin is not clean.
    """
    known, _ = evidence.gather(history, digest)
    decision = policy.decide(known, conditions.device_class, rehearsal=conditions.rehearsal)
    if decision.refused:
        raise ReleaseRefusedError(
            f"no template may name {history.repository.reference(digest)}: "
            + "; ".join(x.reason for x in decision.refused),
            "; ".join(dict.fromkeys(x.remedy for x in decision.refused)),
        )


def require_reachable(repository: Repository, api: str) -> None:
    """Refuse a registry on this machine for a provider that is not.

    Raises:
        UsageError: the provider could not pull from there.
    """
    if repository.is_local and api.startswith("https://"):
        raise UsageError(
            f"{repository.name} is on this machine: the provider cannot pull from it",
            "push to a registry such as ghcr.io/your-org",
        )


def _require_code(name: str, gpus: frozenset[str], description: TemplateDescription) -> None:
    missing = [x for x in description.gpu.capabilities if not has_code(gpus, x)]
    if missing:
        has = ", ".join(sorted(gpus)) or "all before Blackwell"
        raise ReleaseRefusedError(
            f"{name} has no code for GPUs of compute capability {', '.join(missing)}, which "
            f"deploy/template.toml allows (it has code for {has})",
            "remove them from capabilities in deploy/template.toml, or promote another image",
        )


def _immutable_tag(history: Journal, digest: str) -> str:
    known, _ = evidence.gather(history, digest)
    return known.push.tag if known.push and known.tagged == digest else ""
