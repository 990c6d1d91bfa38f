"""The entrypoint: `python3 -m higgs_runtime [SERVER FLAGS | PROGRAM [ARGUMENTS]]`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack

from higgs_runtime import command, front, gpu, image, log, pod, settings, weights
from higgs_runtime.errors import Refused
from higgs_runtime.front import Listener, State
from higgs_runtime.server import ENDING, Server
from higgs_runtime.settings import Settings


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Serve until a signal comes; see `errors` for the exit codes.

    Args:
        arguments: the container's.
        environment: its variables.
    """
    while arguments and not arguments[0].strip():  # of a platform's form that was left empty
        arguments = arguments[1:]
    if arguments and not arguments[0].lstrip().startswith("-"):
        return command.exec_other(arguments)
    if {"--help", "-h"} & {word for argument in arguments for word in argument.split()[:1]}:
        print(settings.help_text(_image_if_there()))
        return 0
    try:
        return serve(settings.split(arguments), environment)
    except Refused as refused:
        log.error(refused.message, refused.hint)
        return refused.exit_code


def _image_if_there() -> image.Image | None:
    try:
        return image.read()
    except (OSError, ValueError, KeyError):
        return None


def serve(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Check, fetch, start, and stay.

    Raises:
        Refused: it cannot be started, and why.
    """
    for number in ENDING:
        signal.signal(number, _end_now)
    facts = image.read()
    chosen = settings.read(arguments, environment, facts)
    log.info(f"image {facts.tag}")
    for name, meant in settings.unknown(environment).items():
        log.warning(f"nothing reads the variable {name}: is {meant} meant?")
    pod.require_temporary_folder()
    machine = _look_at_gpus(chosen, environment)
    hf_home = weights.home(chosen, environment)
    os.environ["HF_HOME"] = str(hf_home)  # before the hub's library is imported
    state = State()
    with ExitStack() as listeners:
        early = _listen(chosen, state, listeners)
        pod.write_ping_address(chosen)
        pod.warn_if_open(chosen, environment)
        pod.pre_start()
        if chosen.public_key:
            pod.start_sshd(chosen.public_key)
        place = weights.ensure(
            weights.wanted(chosen, facts),
            weights.cache_folder(hf_home, environment),
            offline=chosen.offline or weights.offline(environment),
            progress=state.doing,
        )
        state.doing("loading the model")
        server = Server(state, chosen.drain_seconds)
        flags = command.arguments(chosen, gpu.limits(machine), place)
        log.info(f"starting the server: {' '.join(flags[3:])}")

        def ready() -> None:
            if early:
                early.close()
            log.info(f"ready: {pod.address(chosen, environment)}")
            log.info(pod.curl(chosen, environment))
            pod.post_start()

        return server.run(
            flags,
            command.environment(chosen, environment, hf_home, server.control),
            listening=lambda: front.server_answers(chosen.host, chosen.port, plain=bool(early)),
            ready=ready,
        )


def _end_now(number: int, frame: object) -> None:
    """End at once: nothing is running yet that would have to be finished."""
    del number, frame
    log.info("stopped while it was starting")
    os._exit(0)


def _look_at_gpus(chosen: Settings, environment: Mapping[str, str]) -> gpu.Machine | None:
    if chosen.device == "cpu":
        log.info("HIGGS_DEVICE=cpu: no GPU is looked for")
        return None
    machine = gpu.look(environment)
    for refused in gpu.check(machine, chosen.tensor_parallel_size):
        if not chosen.force:
            raise refused
        log.warning(f"{refused.message}; HIGGS_FORCE is set, so it is tried")
    log.info(gpu.describe(machine, chosen.tensor_parallel_size))
    if chosen.tensor_parallel_size > 1:
        pod.check_shared_memory()
    return machine


def _listen(chosen: Settings, state: State, listeners: ExitStack) -> Listener | None:
    """Answer on both ports; return the listener on the server's own, which it takes over.

    A server with a certificate of its own is silent until it can answer with that.
    """
    early = None
    if "--ssl-certfile" not in chosen.given:
        early = Listener(chosen.host, chosen.port, state)
        listeners.callback(early.close)
    if chosen.health_port != chosen.port:
        health = Listener(chosen.host, chosen.health_port, state, "PORT_HEALTH")
        listeners.callback(health.close)
    return early


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):  # whatever is in a variable can be printed
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(main(sys.argv[1:], os.environ))
