// libcuda.so.1 for tests of cuda-probe: a driver with the version and the GPUs that the environment says. FAKE_CUDA_DRIVER=13000, FAKE_CUDA_DEVICES=8.9,9.0,
// FAKE_CUDA=crash or hang or broken for what else a driver does.
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char * variable(const char * name) {
    const char * value = getenv(name);
    return value ? value : "";
}

static const char * device(int index) {
    const char * list = variable("FAKE_CUDA_DEVICES");
    for (; index > 0 && list; index--) {
        list = strchr(list, ',');
        list = list ? list + 1 : NULL;
    }
    return list && *list ? list : NULL;
}

int cuInit(unsigned flags) {
    (void) flags;
    if (strcmp(variable("FAKE_CUDA"), "crash") == 0) {
        abort();
    }
    if (strcmp(variable("FAKE_CUDA"), "hang") == 0) {
        pause();
    }
    if (strcmp(variable("FAKE_CUDA"), "broken") == 0) {
        return 803; // CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
    }
    return device(0) ? 0 : 100;
}

int cuDriverGetVersion(int * version) {
    *version = atoi(variable("FAKE_CUDA_DRIVER"));
    return 0;
}

int cuDeviceGetCount(int * count) {
    for (*count = 0; device(*count); ++*count) {
    }
    return 0;
}

int cuDeviceGetName(char * name, int size, int index) {
    snprintf(name, (size_t) size, "Fake \"%d\"", index);
    return 0;
}

int cuDeviceGetAttribute(int * value, int attribute, int index) {
    int major = 0, minor = 0;
    sscanf(device(index), "%d.%d", &major, &minor);
    *value = attribute == 75 ? major : minor;
    return 0;
}

int cuGetErrorString(int error, const char ** text) {
    *text = error == 803 ? "system has unsupported display driver / cuda driver combination" : "unknown error";
    return 0;
}
