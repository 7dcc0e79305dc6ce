// LayerNorm, a warp for a row.
#pragma once

#include "common.cuh"

struct Statistics {
    float mean, scale;
};

// The sum of f(x[i]) over a row, the same for each lane and wherever it is
// computed: lane l has the numbers 4l to 4l + 3 of each 128.
template <class F> __device__ inline float row_sum(const float *x, int width, F f) {
    int lane = threadIdx.x % WARP;
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (width % 4 == 0) {
#pragma unroll 4
        for (int i = 4 * lane; i < width; i += 4 * WARP) {
            Four four = *reinterpret_cast<const Four *>(x + i);
            for (int c = 0; c < 4; c++) sums[c] = f(sums[c], four.values[c]);
        }
    } else {
        for (int i = 4 * lane; i < width; i += 4 * WARP)
            for (int c = 0; c < 4 && i + c < width; c++) sums[c] = f(sums[c], x[i + c]);
    }
    return warp_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// Of a row x [width], in two passes.
__device__ inline Statistics statistics_of(const float *x, int width, float epsilon) {
    float mean = row_sum(x, width, [](float sum, float v) { return sum + v; }) / width;
    float squares = row_sum(x, width, [=](float sum, float v) {
        float off = v - mean;
        return fmaf(off, off, sum);
    });
    return Statistics{mean, 1.0f / sqrtf(squares / width + epsilon)};
}

__device__ inline float normed(float x, Statistics of_row, float weight, float bias) {
    return fmaf((x - of_row.mean) * of_row.scale, weight, bias);
}

// A LayerNorm of the rows of x [.., width] that `index` names, or of all.
struct Norm {
    const float *x;
    const float *weight;
    const float *bias;
    const uint32_t *index;
    float epsilon;
    int width;
};

__device__ inline const float *row_of(const Norm &norm, int row) {
    return norm.x + (size_t)(norm.index ? norm.index[row] : row) * norm.width;
}

// y [rows, padded] = LayerNorm; as many rows for a block as it has warps.
template <class T> __device__ void layer_norm(T *y, const Norm &norm, int rows, int padded) {
    after_previous();
    int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= rows) return;
    const float *x = row_of(norm, row);
    Statistics of_row = statistics_of(x, norm.width, norm.epsilon);
#pragma unroll 4
    for (int i = threadIdx.x % WARP; i < norm.width; i += WARP)
        y[(size_t)row * padded + i] =
            from_float<T>(normed(x[i], of_row, norm.weight[i], norm.bias[i]));
}
