"""What tells our pods from others, and leftovers from those in use.

A pod's name has a time stamp. Its variables, which RunPod shows, say until when it may live, and
which process needs it until then. So a run that was killed is known by the next one on the same
machine at once, and by every machine when the time is over.
"""

from __future__ import annotations

import datetime
import secrets
from dataclasses import dataclass

import msgspec

from higgs_image.cloud.runpod.schema import Pod
from higgs_image.release.actor import Actor, actor, is_dead

PREFIX = "higgs-pod-"
UNTIL = "POD_UNTIL"
"""Variable: the time after which the pod is a leftover."""
OWNER = "POD_OWNER"
"""Variable: the process that needs the pod; absent: it stays until that time."""


@dataclass(frozen=True)
class PodMarker:
    """Until when a pod is needed, and by whom.

    Attributes:
        until: after which it is a leftover, UTC.
        owner: the process that ends it; None: a person does.
    """

    until: datetime.datetime
    owner: Actor | None

    @classmethod
    def mine(cls, hours: float, *, owned: bool) -> PodMarker:
        """Return the marker of a pod that this process makes."""
        until = now() + datetime.timedelta(hours=hours)
        return cls(until.replace(microsecond=0), actor() if owned else None)

    def variables(self) -> dict[str, str]:
        """Return the variables that carry it."""
        owner = {OWNER: msgspec.json.encode(self.owner).decode()} if self.owner else {}
        return {UNTIL: self.until.isoformat(), **owner}


def now() -> datetime.datetime:
    """Return the present time."""
    return datetime.datetime.now(datetime.UTC)


def new_name() -> str:
    """Return the name of a new pod."""
    return f"{PREFIX}{now():%Y%m%dt%H%M%Sz}-{secrets.token_hex(3)}"


def marker_of(pod: Pod) -> PodMarker | None:
    """Return the marker of a pod; None: the pod is not one of ours."""
    if not pod.name.startswith(PREFIX):
        return None
    try:
        until = datetime.datetime.fromisoformat(pod.env[UNTIL])
        owner = msgspec.json.decode(pod.env[OWNER], type=Actor) if OWNER in pod.env else None
    except (KeyError, ValueError, msgspec.MsgspecError):
        return None
    return PodMarker(until if until.tzinfo else until.replace(tzinfo=datetime.UTC), owner)


def why_leftover(marker: PodMarker) -> str:
    """Return why nobody needs a pod any more; empty: it is in use."""
    if marker.until < now():
        return f"its time was over at {marker.until:%Y-%m-%d %H:%M} UTC"
    if marker.owner is not None and is_dead(marker.owner):
        return "the run that made it has ended"
    return ""
