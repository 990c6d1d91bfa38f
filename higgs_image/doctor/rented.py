"""Doctor's check of the template at RunPod."""

from __future__ import annotations

import os

from higgs_image.cloud import description, template
from higgs_image.cloud.runpod import client
from higgs_image.doctor.model import Result, Subject, passed, undecided
from higgs_image.errors import HiggsError, RegistryNotFoundError
from higgs_image.oci import reference
from higgs_image.oci.artifacts import open_repository
from higgs_image.release.journal import Journal
from higgs_image.release.move_plan import FLOATING_TAG


def check_template(subject: Subject) -> Result:
    """Check that the template at RunPod and the floating tag agree. No build needs it."""

    if not os.environ.get("RUNPOD_API_KEY"):
        return undecided("RUNPOD_API_KEY is not set: nothing is rented from here")
    if not subject.registry:
        return undecided("no registry is configured: no image is rented")
    target = reference.repository(subject.registry, subject.name)
    try:
        account, wanted = client.from_environment(), description.load(subject.workspace.root)
        with open_repository(target) as repository:
            planned = template.plan_for(account, wanted, Journal(repository), FLOATING_TAG)
        planned.require_agreement()
    except RegistryNotFoundError:
        return undecided(f"{target}:{FLOATING_TAG} does not exist yet: nothing was promoted")
    except HiggsError as error:
        return undecided(error.message, error.hint)
    return passed(f"template {planned.id} names {planned.image.reference}")
