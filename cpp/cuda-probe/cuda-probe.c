// Whether CUDA works here: a program of its own, since a broken driver may crash or hang whoever asks it. src/ffi/cuda.ts runs it before it opens the library with CUDA.
//
//   cuda-probe LIBRARY
//
// Prints one JSON object: { "error", "driver", "devices": [{ "name", "major", "minor" }] }, of which what is not known is left out.
#include <dlfcn.h>
#include <stdio.h>

// What is used of the driver's interface (cuda.h), which is the same in every version since 4.0.
typedef int CUresult;
typedef int CUdevice;
enum { CU_MAJOR = 75, CU_MINOR = 76 }; // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*

static CUresult (*init)(unsigned);
static CUresult (*driver_version)(int *);
static CUresult (*device_count)(int *);
static CUresult (*device_name)(char *, int, CUdevice);
static CUresult (*device_attribute)(int *, int, CUdevice);
static CUresult (*error_string)(CUresult, const char **);

static void print_string(const char * s) {
    putchar('"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') {
            printf("\\%c", *s);
        } else if ((unsigned char) *s < ' ') {
            putchar(' ');
        } else {
            putchar(*s);
        }
    }
    putchar('"');
}

static void print_error(const char * what, const char * why) {
    char text[1024];
    snprintf(text, sizeof(text), "%s: %s", what, why ? why : "no reason is told");
    printf("\"error\":");
    print_string(text);
}

static const char * reason_of(CUresult result) {
    const char * text = NULL;
    return error_string && error_string(result, &text) == 0 ? text : NULL;
}

static int load_driver(void) {
    void * driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (!driver) {
        print_error("its library cannot be loaded", dlerror());
        return 0;
    }
    *(void **) &init             = dlsym(driver, "cuInit");
    *(void **) &driver_version   = dlsym(driver, "cuDriverGetVersion");
    *(void **) &device_count     = dlsym(driver, "cuDeviceGetCount");
    *(void **) &device_name      = dlsym(driver, "cuDeviceGetName");
    *(void **) &device_attribute = dlsym(driver, "cuDeviceGetAttribute");
    *(void **) &error_string     = dlsym(driver, "cuGetErrorString");
    if (!init || !driver_version || !device_count || !device_name || !device_attribute) {
        print_error("its library lacks functions", "libcuda.so.1 is none of NVIDIA's, or older than CUDA 4");
        return 0;
    }
    return 1;
}

// The last thing to be printed: nothing comes after an error.
static void print_devices(void) {
    int n = 0;
    CUresult result = init(0);
    if (result == 100) { // CUDA_ERROR_NO_DEVICE
        printf(",\"devices\":[]");
        return;
    }
    if (result != 0 || (result = device_count(&n)) != 0) {
        putchar(',');
        print_error("it does not start", reason_of(result));
        return;
    }
    printf(",\"devices\":[");
    for (CUdevice i = 0; i < n; i++) {
        char name[256] = "";
        int  major = 0, minor = 0;
        device_name(name, sizeof(name) - 1, i);
        device_attribute(&major, CU_MAJOR, i);
        device_attribute(&minor, CU_MINOR, i);
        printf("%s{\"name\":", i ? "," : "");
        print_string(name);
        printf(",\"major\":%d,\"minor\":%d}", major, minor);
    }
    putchar(']');
}

int main(int argc, char ** argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: cuda-probe LIBRARY\n");
        return 2;
    }
    putchar('{');
    if (load_driver()) {
        int version = 0;
        driver_version(&version);
        printf("\"driver\":%d", version);
        print_devices();
        // cuBLAS, which the system brings, may be missing.
        if (!dlopen(argv[1], RTLD_NOW | RTLD_LOCAL)) {
            putchar(',');
            print_error("the package's library cannot be loaded", dlerror());
        }
    }
    puts("}");
    return 0;
}
