"""Every error that a person or a CI job can meet: one class per remedy, one exit code per class.

A message says what failed and names the value; the hint says what to do now. `transient` is set
where an answer shows that another try may help (a 503, a reset): only such errors are retried.
"""

from __future__ import annotations


class HiggsError(Exception):
    """Base of all errors of the pipeline.

    Args:
        message: what failed, naming the value.
        hint: what to do now.
    """

    exit_code = 1
    transient = False
    retry_after = 0.0
    """Seconds after which a server asked to be tried again (its Retry-After)."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(HiggsError):
    """A flag, a setting or a combination of them is not valid."""

    exit_code = 2


class LockError(HiggsError):
    """versions.lock is malformed, or differs from the files that it covers."""

    exit_code = 10


class SourceError(HiggsError):
    """The pinned source could not be fetched, or is not what the lock says."""

    exit_code = 11


class KernelsChangedError(SourceError):
    """The fork's compiled parts differ from its base: the prebuilt wheel would be wrong."""

    exit_code = 12


class DriftError(HiggsError):
    """A rendered file differs from what the lock and the templates give."""

    exit_code = 13


class BuildError(HiggsError):
    """BuildKit ended with an error of the recipe itself."""

    exit_code = 14


class HashMismatchError(BuildError):
    """A downloaded package is not the one that was locked."""

    exit_code = 15


class BudgetError(HiggsError):
    """The image or one of its layers is larger than docker/layers.toml allows."""

    exit_code = 16


class NetworkError(HiggsError):
    """A package registry or a git host could not be reached."""

    exit_code = 17
    transient = True


class PatchError(HiggsError):
    """A patch is malformed, or its target in the fork is not what it was written for."""

    exit_code = 18


class EngineError(HiggsError):
    """No usable container engine: it does not answer, or lacks a feature that the build needs."""

    exit_code = 20


class ToolMissingError(HiggsError):
    """A program that the next step needs is not installed."""

    exit_code = 21


class DiskFullError(HiggsError):
    """Not enough disk space, before or during a step."""

    exit_code = 22


class BusyError(HiggsError):
    """Another run holds the workspace longer than the timeout."""

    exit_code = 23
    transient = True


class FileAccessError(HiggsError):
    """A file or folder cannot be read or written: permissions, a read-only file system."""

    exit_code = 24


class RegistryAuthError(HiggsError):
    """The registry refused the credentials, or none were given (401, 403)."""

    exit_code = 30


class RegistryUnavailableError(HiggsError):
    """The registry did not answer or failed half-way (5xx, 429, timeout, reset, refused)."""

    exit_code = 31
    transient = True


class RegistryConflictError(HiggsError):
    """An immutable tag already names other content, or the read-back differs from the push."""

    exit_code = 32


class RegistryError(HiggsError):
    """The registry gave another final answer (400, too large)."""

    exit_code = 33


class RegistryNotFoundError(RegistryError):
    """The registry does not have this repository or tag."""

    exit_code = 34


class ChecksFailedError(HiggsError):
    """Lint, types or tests failed."""

    exit_code = 3


class DemoError(HiggsError):
    """The container of the demo failed its checks."""

    exit_code = 40


class BenchError(HiggsError):
    """A process of the benchmark ended before its work was done."""

    exit_code = 43


class ServiceError(HiggsError):
    """A started container did not become ready."""

    exit_code = 42


class ReleaseRefusedError(HiggsError):
    """The image lacks what a release needs: evidence, a clean origin, a pin."""

    exit_code = 50


class PromotionConflictError(HiggsError):
    """Another promotion moves the tag now, or has moved it since it was read."""

    exit_code = 51


class VerificationError(HiggsError):
    """An image is not what it claims to be."""

    exit_code = 52


class SigningError(HiggsError):
    """A signature could not be made or checked: no key, no identity, no cosign."""

    exit_code = 53


class UpdateError(HiggsError):
    """A newer pin could not be resolved, or conflicts with other pins."""

    exit_code = 54


class AuditError(HiggsError):
    """A locked package has a known vulnerability that is not accepted with a reason."""

    exit_code = 55


class CloudAuthError(HiggsError):
    """The GPU provider has no key from us, refuses it, or it lacks a permission (401, 403)."""

    exit_code = 60


class CloudRefusedError(HiggsError):
    """The GPU provider refused a request (400, 409, 422)."""

    exit_code = 61


class CloudNotFoundError(CloudRefusedError):
    """The GPU provider does not have this pod, template or endpoint (404)."""

    exit_code = 62


class CloudUnavailableError(HiggsError):
    """The GPU provider did not answer, failed, or asks to wait (429, 5xx, no network)."""

    exit_code = 63
    transient = True


class NoCapacityError(HiggsError):
    """The GPU provider has no free GPU that the image runs on."""

    exit_code = 64


class PriceError(HiggsError):
    """Every free GPU costs more than the price cap."""

    exit_code = 65


class CreditError(HiggsError):
    """The account at the GPU provider is out of credit (402)."""

    exit_code = 66


class PodError(HiggsError):
    """A rented pod did not become ready, or does not answer through its proxy."""

    exit_code = 67


class TemplateDriftError(HiggsError):
    """The provider's template or endpoint and the promoted image differ."""

    exit_code = 68


class PodLeftoverError(HiggsError):
    """A rented pod could not be deleted, and continues to cost money."""

    exit_code = 69


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

SMOKE_EXIT_CODES = {"pass": 0, "fail": 1, "inconclusive": 41}
"""Exit codes of a smoke test by its verdict; 1 is also that of an error without a code."""
