// For more rows than few.
#pragma once

#include "tensor.cuh"

// For more rows, too few to fill the device with the tiles of linear_many:
// 64 rows × 32 outputs for a block, each of its warps on a chunk of the inputs.
#define SOME_ROWS 64
#define SOME_OUTPUTS 32
template <class T> __device__ void linear_some(const Linear &linear) {
    // Lane by lane, so that no two meet in a bank.
    __shared__ Two totals[SOME_ROWS / 16][SOME_OUTPUTS / 8][HALVES][WARP];
    const T *x = static_cast<const T *>(linear.x);
    const T *w = static_cast<const T *>(linear.w);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    int group = lane / 4, q = lane % 4;
    int first_n = blockIdx.x * SOME_OUTPUTS, first_row = blockIdx.y * SOME_ROWS;
    int chunks = (linear.k + CHUNK - 1) / CHUNK;
    Two *all_totals = &totals[0][0][0][0];
    prefetch_weights<T>(linear, first_n, SOME_OUTPUTS, warp);
    after_previous();
    for (int i = threadIdx.x; i < SOME_ROWS * SOME_OUTPUTS / 2; i += blockDim.x)
        all_totals[i] = Two{};
    __syncthreads();

#pragma unroll 1
    for (int first = 0; first < chunks; first += warps) {
        float sums[SOME_ROWS / 16][SOME_OUTPUTS / 8][4] = {};
        int chunk = first + warp, end = min(linear.k, (chunk + 1) * CHUNK);
#pragma unroll 1
        for (int k = chunk * CHUNK + 8 * q; k < end; k += STEP) {
            Eight columns[SOME_OUTPUTS / 8];
#pragma unroll
            for (int j = 0; j < SOME_OUTPUTS / 8; j++) {
                int n = first_n + 8 * j + group;
                columns[j] = eight(w + (size_t)n * linear.k + k, n < linear.n);
            }
#pragma unroll
            for (int i = 0; i < SOME_ROWS / 16; i++) {
                int row = first_row + 16 * i + group;
                Eight upper = eight(x + (size_t)row * linear.k + k, row < linear.rows);
                Eight lower = eight(x + (size_t)(row + 8) * linear.k + k, row + 8 < linear.rows);
#pragma unroll
                for (int j = 0; j < SOME_OUTPUTS / 8; j++)
                    multiply_step<T>(sums[i][j], upper, lower, columns[j]);
            }
        }
        // The chunks' order is that of the warps.
        for (int turn = 0; turn < min(warps, chunks - first); turn++) {
            if (warp == turn)
#pragma unroll
                for (int i = 0; i < SOME_ROWS / 16; i++)
#pragma unroll
                    for (int j = 0; j < SOME_OUTPUTS / 8; j++)
#pragma unroll
                        for (int r = 0; r < 4; r++)
                            totals[i][j][r / 2][lane].values[r % 2] += sums[i][j][r];
            __syncthreads();
        }
    }
    const int at_once = 4, all = SOME_ROWS * SOME_OUTPUTS / 2;
    for (int first = threadIdx.x; first < all; first += at_once * blockDim.x) {
        Ending<T, at_once> ending{linear};
        Two sums[at_once];
#pragma unroll
        for (int i = 0; i < at_once; i++) {
            int o = first + i * blockDim.x;
            int of_lane = o % WARP, half = o / WARP % HALVES, tile = o / WARP / HALVES;
            int row = tile / (SOME_OUTPUTS / 8) * 16 + row_of_half(half, of_lane);
            ending.rows[i] = o < all ? first_row + row : linear.rows;
            ending.ns[i] = first_n + tile % (SOME_OUTPUTS / 8) * 8 + output_of(of_lane);
            sums[i] = o < all ? all_totals[o] : Two{};
        }
        ending.finish(sums);
    }
}

// For many rows: 128 rows × 128 outputs for a block of 8 warps, 64 × 32 each.
#define TILE 128
// Steps of inputs in shared memory: one is computed with, the others come.
#define STAGES 3
#define MANY_THREADS 256
template <class T> __device__ void linear_many(const Linear &linear) {
    alignas(16) __shared__ T xs[STAGES][TILE][STEP], ws[STAGES][TILE][STEP];
    const T *x = static_cast<const T *>(linear.x);
    const T *w = static_cast<const T *>(linear.w);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int group = lane / 4, q = lane % 4;
    int first_n = blockIdx.x * TILE, first_row = blockIdx.y * TILE;
    int warp_row = warp / 4 * 64, warp_n = warp % 4 * 32;
    int steps = linear.k / STEP;

    // A thread brings the same eight inputs of the same lines in each step.
    const int lines = TILE * STEP / 8 / MANY_THREADS;
    int line = threadIdx.x / (STEP / 8), part = threadIdx.x % (STEP / 8) * 8;
    const T *from_x[lines], *from_w[lines];
    bool in_x[lines], in_w[lines];
#pragma unroll
    for (int i = 0; i < lines; i++) {
        int row = first_row + line + i * TILE / lines, n = first_n + line + i * TILE / lines;
        in_x[i] = row < linear.rows, in_w[i] = n < linear.n;
        from_x[i] = x + (size_t)(in_x[i] ? row : 0) * linear.k + part;
        from_w[i] = w + (size_t)(in_w[i] ? n : 0) * linear.k + part;
    }
    auto load = [&](int step, int stage) {
        if (step < steps) {
#pragma unroll
            for (int i = 0; i < lines; i++) {
                int to = line + i * TILE / lines;
                copy_async(&xs[stage][to][part], from_x[i] + step * STEP, in_x[i]);
                copy_async(&ws[stage][to][part], from_w[i] + step * STEP, in_w[i]);
            }
        }
        copies_end_group();
    };

    after_previous();
    float totals[4][4][4] = {}, sums[4][4][4] = {};
    for (int step = 0; step < STAGES - 1; step++) load(step, step);
    int stage = 0, next = STAGES - 1;
    for (int step = 0; step < steps; step++) {
        copies_wait<STAGES - 2>();
        // All have what this step needs, and none needs what the last one had.
        __syncthreads();
        load(step + STAGES - 1, next);
        Eight columns[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            columns[j] = eight(&ws[stage][warp_n + 8 * j + group][8 * q], true);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            Eight upper = eight(&xs[stage][warp_row + 16 * i + group][8 * q], true);
            Eight lower = eight(&xs[stage][warp_row + 16 * i + 8 + group][8 * q], true);
#pragma unroll
            for (int j = 0; j < 4; j++) multiply_step<T>(sums[i][j], upper, lower, columns[j]);
        }
        next = stage;
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        if ((step + 1) % (CHUNK / STEP) == 0 || step + 1 == steps) {
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
#pragma unroll
                    for (int r = 0; r < 4; r++)
                        totals[i][j][r] += sums[i][j][r], sums[i][j][r] = 0.0f;
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        Ending<T, 4 * HALVES> ending{linear};
        Two of_tiles[4 * HALVES];
#pragma unroll
        for (int o = 0; o < 4 * HALVES; o++) {
            int j = o / HALVES, half = o % HALVES;
            ending.rows[o] = first_row + warp_row + 16 * i + row_of_half(half, lane);
            ending.ns[o] = first_n + warp_n + 8 * j + output_of(lane);
            of_tiles[o] = Two{{totals[i][j][2 * half], totals[i][j][2 * half + 1]}};
        }
        ending.finish(of_tiles);
    }
}
