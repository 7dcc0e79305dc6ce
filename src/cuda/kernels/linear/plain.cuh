// Without tensor cores, in f32.
#pragma once

#include "layer.cuh"

// In f32, without tensor cores: sums of STEP inputs in the order of k, added
// one after another. 64 × 64 outputs for 256 threads, 4 × 4 each.
#define PLAIN_TILE 64
#define PLAIN_EACH 4
__device__ void linear_plain_many(const Linear &linear) {
    // By input, so that a thread's four lie side by side.
    alignas(16) __shared__ float xs[STEP][PLAIN_TILE + 4], ws[STEP][PLAIN_TILE + 4];
    const float *x = static_cast<const float *>(linear.x);
    const float *w = static_cast<const float *>(linear.w);
    int first_n = blockIdx.x * PLAIN_TILE, first_row = blockIdx.y * PLAIN_TILE;
    int of_n = threadIdx.x % 16 * PLAIN_EACH, of_row = threadIdx.x / 16 * PLAIN_EACH;
    after_previous();
    float totals[PLAIN_EACH][PLAIN_EACH] = {};
    for (int k = 0; k < linear.k; k += STEP) {
        for (int i = threadIdx.x; i < PLAIN_TILE * STEP / 4; i += blockDim.x) {
            int line = i / (STEP / 4), part = i % (STEP / 4) * 4;
            int row = first_row + line, n = first_n + line;
            Four of_x = four(x + (size_t)row * linear.k + k + part, row < linear.rows);
            Four of_w = four(w + (size_t)n * linear.k + k + part, n < linear.n);
            for (int c = 0; c < 4; c++)
                xs[part + c][line] = of_x.values[c], ws[part + c][line] = of_w.values[c];
        }
        __syncthreads();
        float sums[PLAIN_EACH][PLAIN_EACH] = {};
#pragma unroll 8
        for (int i = 0; i < STEP; i++) {
            Four of_x = four(&xs[i][of_row], true), of_w = four(&ws[i][of_n], true);
#pragma unroll
            for (int r = 0; r < PLAIN_EACH; r++)
#pragma unroll
                for (int c = 0; c < PLAIN_EACH; c++)
                    sums[r][c] = fmaf(of_x.values[r], of_w.values[c], sums[r][c]);
        }
#pragma unroll
        for (int r = 0; r < PLAIN_EACH; r++)
#pragma unroll
            for (int c = 0; c < PLAIN_EACH; c++) totals[r][c] += sums[r][c];
        __syncthreads();
    }
    Ending<float, PLAIN_EACH * PLAIN_EACH / 2> ending{linear};
    Two sums[PLAIN_EACH * PLAIN_EACH / 2];
#pragma unroll
    for (int o = 0; o < PLAIN_EACH * PLAIN_EACH / 2; o++) {
        int r = o / 2, c = o % 2 * 2;
        ending.rows[o] = first_row + of_row + r;
        ending.ns[o] = first_n + of_n + c;
        sums[o] = Two{{totals[r][c], totals[r][c + 1]}};
    }
    ending.finish(sums);
}

// The same for few rows, where reading the weights is all: 4 rows × 8 outputs
// for a block, a thread for STEP inputs of an output.
#define PLAIN_ROWS 4
#define PLAIN_PARTS 128
__device__ void linear_plain_few(const Linear &linear) {
    __shared__ float parts[PLAIN_PARTS][PLAIN_ROWS][8];
    const float *x = static_cast<const float *>(linear.x);
    const float *w = static_cast<const float *>(linear.w);
    int output = threadIdx.x % 8, part = threadIdx.x / 8, width = blockDim.x / 8;
    int n = blockIdx.x * 8 + output, first_row = blockIdx.y * PLAIN_ROWS;
    int steps = linear.k / STEP, rows = min(PLAIN_ROWS, linear.rows - first_row);
    after_previous();
    Two totals = {};
    for (int first = 0; first < steps; first += width) {
        int step = first + part;
        float sums[PLAIN_ROWS] = {};
        if (step < steps && n < linear.n) {
            const float *weights = w + (size_t)n * linear.k + step * STEP;
            const float *inputs = x + (size_t)first_row * linear.k + step * STEP;
            for (int i = 0; i < STEP; i += 4) {
                Four of_w = four(weights + i, true);
#pragma unroll
                for (int r = 0; r < PLAIN_ROWS; r++) {
                    if (r >= rows) break;
                    Four of_x = four(inputs + (size_t)r * linear.k + i, true);
                    for (int c = 0; c < 4; c++)
                        sums[r] = fmaf(of_x.values[c], of_w.values[c], sums[r]);
                }
            }
        }
        for (int r = 0; r < PLAIN_ROWS; r++) parts[part][r][output] = sums[r];
        __syncthreads();
        // A thread for a row and two outputs.
        if (threadIdx.x < PLAIN_ROWS * 4)
            for (int p = 0; p < min(width, steps - first); p++)
                for (int e = 0; e < 2; e++)
                    totals.values[e] += parts[p][threadIdx.x / 4][threadIdx.x % 4 * 2 + e];
        __syncthreads();
    }
    if (threadIdx.x < PLAIN_ROWS * 4) {
        Ending<float, 1> ending{linear};
        ending.rows[0] = first_row + threadIdx.x / 4;
        ending.ns[0] = blockIdx.x * 8 + threadIdx.x % 4 * 2;
        ending.finish({totals});
    }
}
