"""The command line: Invoke tasks that parse flags, call one function of higgs_image, and print.

Heavy modules are imported inside the tasks, so that `invoke --list` answers at once.
"""

from invoke.collection import Collection

from higgs_image.tasks import (
    bench,
    build,
    command,
    demo,
    dev,
    endpoint,
    host,
    lock,
    platforms,
    pods,
    release,
    service,
    smoke,
    template,
    verify,
)

command.install()
namespace = Collection()
for module in (
    build, service, smoke, bench, release, verify, template, endpoint, pods, platforms, demo, lock,
    host, dev,
):  # fmt: skip
    for task in Collection.from_module(module).tasks.values():
        namespace.add_task(task)

__all__ = ["namespace"]
