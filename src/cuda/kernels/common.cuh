// What all kernels share: a batch's rows, a warp's sums, rows of numbers as
// loads and tensor cores take them.
#pragma once

#ifdef GPT2_EMULATED
#include "emulated.h"
#else
#include "device.cuh"
#endif

#define WARP 32
#define ALL_LANES 0xffffffffu
// Positions in a block of the cache, as in the engine.
#define BLOCK 32
// Inputs that a tensor core product takes twice over; rows are padded to it.
#define STEP 32
// Numbers of a head at most.
#define MOST_HEAD 256

// All lanes' values joined, the same for each.
template <class V, class F> __device__ inline V warp_fold(V v, F join) {
    for (int other = WARP / 2; other > 0; other /= 2)
        v = join(v, __shfl_xor_sync(ALL_LANES, v, other));
    return v;
}

template <class V> __device__ inline V warp_sum(V v) {
    return warp_fold(v, [](V a, V b) { return a + b; });
}

__device__ inline float warp_max(float v) {
    return warp_fold(v, [](float a, float b) { return fmaxf(a, b); });
}

// Where a batch's rows come from: a row for each new token.
struct Rows {
    const uint32_t *tokens;
    // -1 for a row that only fills up a batch.
    const int *positions;
    // The row's block table.
    const uint32_t *sequences;
    // [sequences, stride]
    const uint32_t *tables;
    int stride;
};

__device__ inline const uint32_t *table_of(const Rows &rows, int row) {
    return rows.tables + (size_t)of_batch(rows.sequences + row) * rows.stride;
}

// Four floats, or eight numbers of a tensor core's format, in one load.
struct alignas(16) Four {
    float values[4];
};
struct alignas(16) Eight {
    uint32_t pairs[4];
};
struct alignas(8) Two {
    float values[2];
};

__device__ inline Four four(const float *from, bool valid) {
    if (valid) return *reinterpret_cast<const Four *>(from);
    return Four{{0.0f, 0.0f, 0.0f, 0.0f}};
}

__device__ inline Eight eight(const void *from, bool valid) {
    if (valid) return *static_cast<const Eight *>(from);
    return Eight{{0, 0, 0, 0}};
}

// sums += 16 rows · 8 columns over STEP inputs. The order of inputs within a
// step is the lanes': lane q of four holds inputs 8q to 8q + 7, of rows and
// columns alike, so that all loads are of 16 bytes.
template <class T>
__device__ inline void multiply_step(float (&sums)[4], const Eight &upper, const Eight &lower,
                                     const Eight &column) {
#pragma unroll
    for (int half = 0; half < 4; half += 2) {
        uint32_t a[4] = {upper.pairs[half], lower.pairs[half], upper.pairs[half + 1],
                         lower.pairs[half + 1]};
        uint32_t b[2] = {column.pairs[half], column.pairs[half + 1]};
        multiply<T>(sums, a, b);
    }
}
