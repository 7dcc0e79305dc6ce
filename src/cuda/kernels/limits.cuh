// What the device could do, for the benchmarks: reading memory, and products of
// values in registers. The results are kept alive, and are nothing.
#pragma once

#include "common.cuh"

#define LOADS 4
__device__ void read_through(uint32_t *out, const Eight *values, size_t count) {
    uint32_t seen = 0;
    size_t threads = (size_t)gridDim.x * blockDim.x;
    auto see = [&](const Eight &v) { seen |= v.pairs[0] | v.pairs[1] | v.pairs[2] | v.pairs[3]; };
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    // One load of each thread is less than a memory as fast as an H200's has
    // under way.
    for (; i + (LOADS - 1) * threads < count; i += LOADS * threads) {
        Eight v[LOADS];
#pragma unroll
        for (int load = 0; load < LOADS; load++) v[load] = values[i + load * threads];
#pragma unroll
        for (int load = 0; load < LOADS; load++) see(v[load]);
    }
    for (; i < count; i += threads) see(values[i]);
    if (seen == 0xffffffffu) *out = seen;
}

#define CHAINS 8
__device__ void multiply_add_plain(float *out, int rounds) {
    float sums[CHAINS], a = threadIdx.x * 1e-6f, b = 0.999f;
    for (int i = 0; i < CHAINS; i++) sums[i] = i;
    for (int round = 0; round < rounds; round++)
#pragma unroll
        for (int i = 0; i < CHAINS; i++) sums[i] = fmaf(sums[i], b, a);
    float sum = 0.0f;
    for (int i = 0; i < CHAINS; i++) sum += sums[i];
    if (sum == 1.5f) *out = sum;
}

template <class T> __device__ void multiply_add(float *out, int rounds) {
    float sums[CHAINS][4] = {};
    uint32_t a[4] = {threadIdx.x, 1, 2, 3}, b[2] = {4, 5};
    for (int round = 0; round < rounds; round++)
#pragma unroll
        for (int i = 0; i < CHAINS; i++) multiply<T>(sums[i], a, b);
    float sum = 0.0f;
    for (int i = 0; i < CHAINS; i++) sum += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
    if (sum == 1.5f) *out = sum;
}

