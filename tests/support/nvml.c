/* A fake of NVIDIA's management library; FAKE_NVML sets its answers.
   FAKE_NVML="init=0;driver=550.90.07;cuda=12040;gpu=NVIDIA L40S,46068,45500,8,9;gpu=..." */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { char name[96]; unsigned long long total, free; int major, minor; } gpu_t;
static gpu_t gpus[16];
static unsigned count;
static char driver[64];
static int cuda, init;

static void load(void) {
    char *text = strdup(getenv("FAKE_NVML") ? getenv("FAKE_NVML") : ""), *state = NULL;
    count = 0; cuda = 0; init = 0; driver[0] = 0;
    for (char *part = strtok_r(text, ";", &state); part; part = strtok_r(NULL, ";", &state)) {
        gpu_t *gpu = &gpus[count];
        if (sscanf(part, "gpu=%95[^,],%llu,%llu,%d,%d", gpu->name, &gpu->total, &gpu->free,
                   &gpu->major, &gpu->minor) == 5) count++;
        sscanf(part, "driver=%63s", driver);
        sscanf(part, "cuda=%d", &cuda);
        sscanf(part, "init=%d", &init);
    }
    free(text);
}

int nvmlInit_v2(void) { load(); return init; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *out, unsigned length) { snprintf(out, length, "%s", driver); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { *out = cuda; return 0; }
int nvmlDeviceGetCount_v2(unsigned *out) { *out = count; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
    if (index >= count) return 2;
    *out = &gpus[index];
    return 0;
}
int nvmlDeviceGetUUID(void *handle, char *out, unsigned length) {
    snprintf(out, length, "GPU-%08x-0000", (unsigned)((gpu_t *)handle - gpus) + 0xabc0);
    return 0;
}
int nvmlDeviceGetHandleByUUID(const char *id, void **out) { (void)id; (void)out; return 6; }
int nvmlDeviceGetName(void *handle, char *out, unsigned length) {
    snprintf(out, length, "%s", ((gpu_t *)handle)->name);
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *handle, unsigned long long *out) {
    gpu_t *gpu = handle;
    if (gpu->total == 0) return 3;
    out[0] = gpu->total << 20; out[1] = gpu->free << 20; out[2] = out[0] - out[1];
    return 0;
}
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    gpu_t *gpu = handle;
    if (gpu->major == 0) return 3;
    *major = gpu->major; *minor = gpu->minor;
    return 0;
}
