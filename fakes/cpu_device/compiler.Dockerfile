# An image that can compile on a CPU: the image under test with what a GPU's machine has besides.
#
#     docker build --build-arg IMAGE=IMAGE --tag higgs-compiler - < fakes/cpu_device/compiler.Dockerfile
ARG IMAGE
FROM $IMAGE

# Inductor's code for a CPU is C++.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm --recursive /var/lib/apt/lists/*

# The driver's library, so that vLLM's own libraries load; each function says that there is no GPU.
RUN for name in cuInit $(find /opt -name '*.so' -path '*/vllm/*' \
        -exec nm --dynamic --undefined-only --format=just-symbols {} + \
        | grep --extended-regexp '^cu[A-Z]' | sort --unique); do \
        echo "int $name(void) { return 100; }"; \
    done | gcc -w -shared -fPIC -Wl,-soname,libcuda.so.1 -x c -o /usr/lib/libcuda.so.1 - \
    && ldconfig
