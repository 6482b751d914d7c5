/* One kernel of Perennial by NVIDIA's driver API alone: layer normalisation of 1,000 rows, held against the same in double.

       perennial list kernels --out kernels/
       cc -O2 -I kernels/ examples/kernel.c -o kernel -ldl -lm
       ./kernel kernels/

   A second argument names another libcuda than the one that the loader finds. */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "perennial_kernels.h"

/* What cuda.h would declare, so that no toolkit is needed. */
static int (*cuInit)(unsigned);
static int (*cuDeviceGet)(int *, int);
static int (*cuDeviceGetAttribute)(int *, int, int);
static int (*cuDevicePrimaryCtxRetain)(void **, int);
static int (*cuCtxSetCurrent)(void *);
static int (*cuModuleLoadData)(void **, const void *);
static int (*cuModuleGetFunction)(void **, void *, const char *);
static int (*cuMemAlloc)(perennial_address *, size_t);
static int (*cuMemcpyHtoDAsync)(perennial_address, const void *, size_t, void *);
static int (*cuMemcpyDtoHAsync)(void *, perennial_address, size_t, void *);
static int (*cuStreamCreate)(void **, unsigned);
static int (*cuStreamSynchronize)(void *);
static int (*cuLaunchKernel)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
static int (*cuGetErrorString)(int, const char **);
enum { CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76, NON_BLOCKING = 1 };

enum { ROWS = 1000, WIDTH = 768 };

static void check(int status, const char *doing) {
    const char *words = "unknown error";
    if (!status) return;
    if (cuGetErrorString) cuGetErrorString(status, &words);
    fprintf(stderr, "%s: error %d: %s\n", doing, status, words ? words : "unknown error");
    exit(1);
}
#define CALL(function, ...) check(function(__VA_ARGS__), #function)

static void *symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "libcuda has no %s\n", name);
        exit(1);
    }
    return found;
}
#define FIND(library, name, symbol_name) *(void **)&name = symbol(library, symbol_name)

static uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float from_bf16(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, 4);
    return result;
}

/* A file and a zero byte behind it, which the driver wants of PTX. */
static char *read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(1);
    }
    fseek(file, 0, SEEK_END);
    size_t bytes = (size_t)ftell(file);
    rewind(file);
    char *content = malloc(bytes + 1);
    if (!content || fread(content, 1, bytes, file) != bytes) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(1);
    }
    content[bytes] = 0;
    fclose(file);
    return content;
}

static perennial_address upload(const void *from, size_t bytes, void *stream) {
    perennial_address to;
    CALL(cuMemAlloc, &to, bytes);
    if (from) CALL(cuMemcpyHtoDAsync, to, from, bytes, stream);
    return to;
}

int main(int count, char **arguments) {
    if (count < 2) {
        fprintf(stderr, "usage: %s DIR [LIBCUDA]; DIR is what `perennial list kernels --out DIR` wrote\n", arguments[0]);
        return 2;
    }
    void *library = dlopen(count > 2 ? arguments[2] : "libcuda.so.1", RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    FIND(library, cuGetErrorString, "cuGetErrorString");
    FIND(library, cuInit, "cuInit");
    FIND(library, cuDeviceGet, "cuDeviceGet");
    FIND(library, cuDeviceGetAttribute, "cuDeviceGetAttribute");
    FIND(library, cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain");
    FIND(library, cuCtxSetCurrent, "cuCtxSetCurrent");
    FIND(library, cuModuleLoadData, "cuModuleLoadData");
    FIND(library, cuModuleGetFunction, "cuModuleGetFunction");
    FIND(library, cuMemAlloc, "cuMemAlloc_v2");
    FIND(library, cuMemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2");
    FIND(library, cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2");
    FIND(library, cuStreamCreate, "cuStreamCreate");
    FIND(library, cuStreamSynchronize, "cuStreamSynchronize");
    FIND(library, cuLaunchKernel, "cuLaunchKernel");

    int device, major, minor;
    void *context, *module, *function, *stream;
    CALL(cuInit, 0);
    CALL(cuDeviceGet, &device, 0);
    CALL(cuDeviceGetAttribute, &major, CAPABILITY_MAJOR, device);
    CALL(cuDeviceGetAttribute, &minor, CAPABILITY_MINOR, device);
    CALL(cuDevicePrimaryCtxRetain, &context, device);
    CALL(cuCtxSetCurrent, context);
    CALL(cuStreamCreate, &stream, NON_BLOCKING);

    /* 8.7 is part of a processor and runs PTX. */
    const char *target = major == 9 && minor == 0 ? "sm_90a.cubin" : major == 8 && minor != 7 ? "sm_80.cubin" : "compute_80.ptx";
    char path[4096];
    snprintf(path, sizeof path, "%s/layer_norm.%s", arguments[1], target);
    CALL(cuModuleLoadData, &module, read_file(path));
    CALL(cuModuleGetFunction, &function, module, "layer_norm");

    static uint16_t x[ROWS * WIDTH], y[ROWS * WIDTH], gamma[WIDTH], beta[WIDTH];
    for (int i = 0; i < ROWS * WIDTH; i++) x[i] = to_bf16(sinf(0.7f * (float)i) * (float)(1 + i % 7));
    for (int i = 0; i < WIDTH; i++) gamma[i] = to_bf16(1.f + 0.001f * (float)i), beta[i] = to_bf16(0.01f * (float)(i % 30));

    struct perennial_layer_norm parameters = {
        .x = upload(x, sizeof x, stream), .gamma = upload(gamma, sizeof gamma, stream), .beta = upload(beta, sizeof beta, stream),
        .y = upload(NULL, sizeof y, stream), .mean = upload(NULL, 4 * ROWS, stream), .rstd = upload(NULL, 4 * ROWS, stream),
        .rows = ROWS, .width = WIDTH, .eps = 1e-5f};
    void *kernel_arguments[9];
    perennial_layer_norm_arguments(&parameters, kernel_arguments);
    /* By its contract a warp has a row. */
    unsigned warps = PERENNIAL_LAYER_NORM_THREADS / 32;
    CALL(cuLaunchKernel, function, (ROWS + warps - 1) / warps, 1, 1, PERENNIAL_LAYER_NORM_THREADS, 1, 1, 0, stream,
         kernel_arguments, NULL);
    CALL(cuMemcpyDtoHAsync, y, parameters.y, sizeof y, stream);
    CALL(cuStreamSynchronize, stream);

    double worst = 0;
    for (int row = 0; row < ROWS; row++) {
        double mean = 0, squares = 0;
        for (int i = 0; i < WIDTH; i++) mean += from_bf16(x[row * WIDTH + i]) / WIDTH;
        for (int i = 0; i < WIDTH; i++) squares += pow(from_bf16(x[row * WIDTH + i]) - mean, 2) / WIDTH;
        for (int i = 0; i < WIDTH; i++) {
            double expected = (from_bf16(x[row * WIDTH + i]) - mean) / sqrt(squares + 1e-5) * from_bf16(gamma[i]) + from_bf16(beta[i]);
            double error = fabs(from_bf16(y[row * WIDTH + i]) - expected) / fmax(fabs(expected), 1e-2);
            if (!(error <= worst)) worst = error;
        }
    }
    /* bf16 has 8 bits: rounding moves a value by 2^-8 of itself at most; and f32 has its own roundings. */
    int right = worst < ldexp(1.0, -8) + 1e-4;
    printf("layer_norm on %d.%d by %s: largest relative error %.5f: %s\n", major, minor, target, worst, right ? "right" : "WRONG");
    return !right;
}
