"""The entrypoint: `python3 -m higgs_runtime [SERVER FLAGS | PROGRAM [ARGUMENTS]]`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack

from higgs_runtime import (
    address,
    answers,
    cache,
    command,
    compile_cache,
    container,
    control,
    device_code,
    flags,
    generate,
    gpu,
    gpu_memory,
    hooks,
    image,
    log,
    nvml,
    placeholder,
    settings,
    ssh,
    weights,
)
from higgs_runtime.errors import StartError
from higgs_runtime.generate import GenerateProcess
from higgs_runtime.placeholder import Placeholder
from higgs_runtime.server import STOP_SIGNALS, ServerProcess
from higgs_runtime.settings import Settings
from higgs_runtime.state import ServerState

ANSWER_SECONDS = 5.0
"""Time in which a ready server must answer GET /ping, before the HEALTHCHECK's own timeout."""


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Serve until a signal arrives.

    Args:
        arguments: the container's arguments.
        environment: its variables.

    Returns:
        The exit code; see `errors`.
    """
    while arguments and not arguments[0].strip():  # from an empty field of a platform's form
        arguments = arguments[1:]
    if arguments and not arguments[0].lstrip().startswith("-"):
        return command.exec_program(arguments)
    if {"--help", "-h"} & {word for argument in arguments for word in argument.split()[:1]}:
        from higgs_runtime import usage

        print(usage.help_text(_image_if_readable()))
        return 0
    try:
        return serve(flags.split(arguments), environment)
    except StartError as error:
        log.error(error.message, error.hint)
        return error.exit_code


def _image_if_readable() -> image.ImageFacts | None:
    try:
        return image.read()
    except (OSError, ValueError, KeyError):
        return None


def serve(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Check, download, start, and stay.

    Raises:
        StartError: the server cannot be started.
    """
    companions: list[GenerateProcess] = []
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: _exit_now(companions))
    facts = image.read()
    quoted = settings.quoted(environment)
    settings.check_patch_settings(environment)
    chosen = settings.read(arguments, environment, facts)
    log.info(f"image {facts.tag}")
    for name, likely in settings.misspelt(environment).items():
        log.warning(f"the variable {name} is not used; hint: it may be a misspelt {likely}")
    for name in quoted:
        log.warning(f"the value of {name} is enclosed in quotes; hint: {settings.QUOTES_HINT}")
    if chosen.api_key and any(chosen.api_key in argument for argument in arguments):
        log.warning(
            "the API key is visible in the list of processes; hint: set HIGGS_API_KEY instead of "
            "the flag --api-key"
        )
    container.require_temporary_folder()
    home = command.writable_home(environment)
    compiled = compile_cache.variables(chosen, environment, facts.tag, home)
    if chosen.device == "gpu":
        compile_cache.require_enabled(chosen, environment)
        compile_cache.require_executable(compiled)
    machine = _check_gpus(chosen, environment, facts)
    hf_home = cache.hub_home(chosen.hf_home, environment)
    os.environ["HF_HOME"] = str(hf_home)  # before huggingface_hub is imported
    state = ServerState()
    with ExitStack() as listeners:
        early = _listen(chosen, state, listeners)
        address.write_ping_url(chosen)
        address.warn_if_open(chosen, environment)
        limits = command.effective(chosen, environment, gpu.defaults(machine))
        companion = generate.create(chosen, environment, limits.max_num_seqs)
        if companion:
            listeners.callback(companion.kill)
            companions.append(companion)
            companion.start()
        hooks.pre_start()
        if chosen.public_key:
            ssh.start(chosen.public_key)
        folders = weights.ensure(
            weights.required(chosen, facts),
            cache.hub_cache(hf_home, environment),
            offline=chosen.offline or weights.is_offline(environment),
            report=state.report,
        )
        if machine:
            _refuse(
                chosen,
                device_code.check_quantization(
                    machine, chosen.tensor_parallel_size, facts,
                    weights.quantization(folders.model), "the model's quantization",
                ),
            )  # fmt: skip
        state.report("loading the model")
        server = ServerProcess(state, chosen.drain_seconds, companion)
        compile_cache.prepare(compiled)
        cascade = gpu.merges_attention(machine, environment)
        planned = gpu_memory.plan(machine, limits)
        log.info(gpu_memory.describe(planned, limits, cascade=cascade))
        if planned and planned.free < 0:
            log.warning(gpu_memory.shortage(planned, limits))
        line = command.arguments(chosen, limits, folders, cascade=cascade)
        log.info(f"starting the server: {' '.join(line[3:])}")

        def ready() -> None:
            if early:
                early.close()
            log.info(f"ready: {address.public_url(chosen.port, environment)}")
            if companion:
                log.info(f"ready: {companion.url} (POST /generate, and a page)")
            log.info(address.curl_command(chosen, environment))
            hooks.post_start()

        return server.run(
            line,
            command.environment(
                chosen,
                environment,
                hf_home,
                server.control,
                compiled,
                limits.reference_seconds,
                planned.codec if planned else 0,
                device_code.warmup_seconds(machine, facts, environment),
            )
            | ({control.COMPANION: companion.token} if companion else {}),
            listening=lambda: placeholder.server_answers(
                chosen.host, chosen.port, plain=bool(early)
            ),
            ready=ready,
        )


def _exit_now(companions: list[GenerateProcess]) -> None:
    """Exit at once: nothing runs yet that must be finished."""
    log.info("stopped while starting")
    for companion in companions:
        companion.kill()
    os._exit(0)


def _check_gpus(
    chosen: Settings, environment: Mapping[str, str], facts: image.ImageFacts
) -> nvml.GpuMachine | None:
    if chosen.device == "cpu":
        log.info("HIGGS_DEVICE=cpu: GPUs are not checked")
        return None
    machine = nvml.probe(environment)
    size = chosen.tensor_parallel_size
    method = chosen.given.get(device_code.FLAG, "")
    _refuse(chosen, device_code.check(machine, size, facts, environment))
    _refuse(chosen, device_code.check_quantization(machine, size, facts, method))
    _refuse(chosen, gpu.check(machine, size))
    log.info(gpu.describe(machine, chosen.tensor_parallel_size))
    if chosen.tensor_parallel_size > 1:
        container.warn_if_little_shared_memory()
    return machine


def _refuse(chosen: Settings, errors: list[StartError]) -> None:
    for error in errors:
        if not chosen.force:
            raise error
        log.warning(f"{error.message}; continuing because HIGGS_FORCE is set")


def _listen(chosen: Settings, state: ServerState, listeners: ExitStack) -> Placeholder | None:
    """Answer on both ports; return the placeholder on the server's own, which hands it over.

    There is no placeholder for a server with a TLS certificate: only the server can present it.
    """
    cors = answers.cors_policy(chosen.arguments)
    early = None
    if "--ssl-certfile" not in chosen.given:
        early = Placeholder(chosen.host, chosen.port, state, cors)
        listeners.callback(early.close)
    if chosen.health_port != chosen.port:
        state.healthy = lambda: placeholder.server_answers(
            chosen.host, chosen.port, plain=bool(early), seconds=ANSWER_SECONDS
        )
        health = Placeholder(chosen.host, chosen.health_port, state, cors, source="PORT_HEALTH")
        listeners.callback(health.close)
    return early


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):  # a value with any character can be printed
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # text streams
    sys.exit(main(sys.argv[1:], os.environ))
