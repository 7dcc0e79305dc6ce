// What the kernels on tensor cores share. Each sum is made in chunks of CHUNK
// inputs, added one after another, whoever computes them.
#pragma once

#include "layer.cuh"

#define CHUNK 256
// Of a block whose warps have a chunk each.
#define MOST_WARPS 16

// A warp's sums of 16 rows and 8 outputs as its lanes hold them: half h of a
// lane has row group + 8h and outputs 2q and 2q + 1.
#define HALVES 2
__device__ inline int row_of_half(int half, int lane) { return lane / 4 + 8 * half; }
__device__ inline int output_of(int lane) { return lane % 4 * 2; }

// A warp asks for a chunk's weights of `count` outputs.
template <class T>
__device__ inline void prefetch_weights(const Linear &linear, int first_n, int count, int chunk) {
    const int line = 128 / sizeof(T), lines = CHUNK / line;
    const T *w = static_cast<const T *>(linear.w);
    for (int i = threadIdx.x % WARP; i < count * lines; i += WARP) {
        int n = first_n + i / lines, k = chunk * CHUNK + i % lines * line;
        if (n < linear.n && k < linear.k) prefetch(w + (size_t)n * linear.k + k);
    }
}
