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
        // Many loads at a time, whatever is needed of them.
        const int most = 8;
        for (int first = 4 * lane; first < width; first += 4 * WARP * most) {
            Four fours[most];
#pragma unroll
            for (int j = 0; j < most; j++) {
                int i = first + 4 * WARP * j;
                fours[j] = four(x + i, i < width);
            }
#pragma unroll
            for (int j = 0; j < most; j++)
                if (first + 4 * WARP * j < width)
                    for (int c = 0; c < 4; c++) sums[c] = f(sums[c], fours[j].values[c]);
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

// The numbers i to i + 7 of a row, i a multiple of 8; 0 beyond its width.
__device__ inline void eight_of_row(float (&values)[8], const float *row, int i, int width) {
    bool aligned = width % 4 == 0;
#pragma unroll
    for (int c = 0; c < 8; c += 4) {
        Four loaded = four(row + i + c, aligned && i + c < width);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            bool single = !aligned && i + c + e < width;
            values[c + e] = single ? row[i + c + e] : loaded.values[e];
        }
    }
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
    int lane = threadIdx.x % WARP;
    y += (size_t)row * padded;
    if (norm.width % 4 != 0) {
        for (int i = lane; i < norm.width; i += WARP)
            y[i] = from_float<T>(normed(x[i], of_row, norm.weight[i], norm.bias[i]));
        return;
    }
    const int most = 4;
    for (int first = 4 * lane; first < norm.width; first += 4 * WARP * most) {
        Four values[most], weights[most], biases[most];
#pragma unroll
        for (int j = 0; j < most; j++) {
            int i = first + 4 * WARP * j;
            values[j] = four(x + i, i < norm.width);
            weights[j] = four(norm.weight + i, i < norm.width);
            biases[j] = four(norm.bias + i, i < norm.width);
        }
#pragma unroll
        for (int j = 0; j < most; j++) {
            int i = first + 4 * WARP * j;
            float *v = values[j].values;
            for (int c = 0; c < 4; c++)
                v[c] = normed(v[c], of_row, weights[j].values[c], biases[j].values[c]);
            if (i >= norm.width) continue;
            store_two(y + i, v[0], v[1]);
            store_two(y + i + 2, v[2], v[3]);
        }
    }
}
