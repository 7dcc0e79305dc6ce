// For few rows, where reading the weights is all.
#pragma once

#include "tensor.cuh"

// sums += up to 8 · `EIGHTS` rows · 8 columns over a chunk of k inputs from
// `first` on; x is at the first row. As many loads at a time for 8 rows as
// for 16.
template <class T, int EIGHTS>
__device__ inline void multiply_chunk(float (&sums)[4], const T *x, int stride, int rows, int first,
                                      int k, const Eight (&columns)[CHUNK / STEP]) {
    const int steps = CHUNK / STEP / EIGHTS;
    int group = threadIdx.x % WARP / 4, q = threadIdx.x % 4;
#pragma unroll
    for (int start = 0; start < CHUNK / STEP; start += steps) {
        Eight inputs[EIGHTS][steps];
#pragma unroll
        for (int step = 0; step < steps; step++)
#pragma unroll
            for (int e = 0; e < EIGHTS; e++) {
                int row = 8 * e + group, at = first + (start + step) * STEP + 8 * q;
                inputs[e][step] = eight(x + (size_t)row * stride + at, row < rows && at < k);
            }
#pragma unroll
        for (int step = 0; step < steps; step++) {
            Eight lower = EIGHTS > 1 ? inputs[EIGHTS - 1][step] : Eight{};
            multiply_step<T>(sums, inputs[0][step], lower, columns[start + step]);
        }
    }
}

// Rows that are normed, and the numbers of each, at most.
#define NORMED_ROWS 4
#define MOST_WIDTH 2048
#define NORMED_WARPS (MOST_WIDTH / CHUNK)
// Turns whose weights are asked for before they are loaded.
#define TURNS_AHEAD 3

// 16 rows × 8 outputs at a time for a block, each of its warps on a chunk of the
// inputs; then what is left of these inputs, then other outputs. With `NORMED`, x
// is the LayerNorm of rows of floats, computed by every block for itself.
template <class T, bool NORMED> __device__ void linear_few(const Linear &linear) {
    // Of two turns, so that one is written while the other is read.
    __shared__ Two parts[2][NORMED ? NORMED_WARPS : MOST_WARPS][HALVES][WARP];
    alignas(16) __shared__ T normed_rows[NORMED ? NORMED_ROWS * (MOST_WIDTH + STEP) : 8];
    __shared__ Statistics statistics[NORMED_ROWS];
    const T *x = static_cast<const T *>(linear.x);
    const T *w = static_cast<const T *>(linear.w);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    int first_row = blockIdx.y * 16, rows = min(16, linear.rows - first_row), stride = linear.k;
    int chunks = (linear.k + CHUNK - 1) / CHUNK;

    // A turn: some outputs, and a chunk for each warp.
    struct Turn {
        int first_n, first_chunk;
    };
    auto next = [&](Turn turn) {
        turn.first_chunk += warps;
        return turn.first_chunk < chunks ? turn : Turn{turn.first_n + (int)gridDim.x * 8, 0};
    };
    // All of a chunk's weights at once.
    Eight columns[CHUNK / STEP];
    auto load_weights = [&](Turn turn) {
        int n = turn.first_n + lane / 4;
#pragma unroll
        for (int step = 0; step < CHUNK / STEP; step++) {
            int k = (turn.first_chunk + warp) * CHUNK + step * STEP + 8 * (lane % 4);
            columns[step] = eight(w + (size_t)n * linear.k + k, n < linear.n && k < linear.k);
        }
    };
    auto prefetch_turn = [&](Turn turn) {
        prefetch_weights<T>(linear, turn.first_n, 8, turn.first_chunk + warp);
    };
    // Two warps end the sums, a thread two of them.
    Ending<T, 1> ending{linear};
    ending.rows[0] = warp < HALVES ? first_row + row_of_half(warp, lane) : linear.rows;
    auto begin_outputs = [&](Turn turn) {
        ending.ns[0] = turn.first_n + output_of(lane);
        ending.load_biases();
    };

    // Before the kernels before this one are done: weights depend on none.
    Turn turn{(int)blockIdx.x * 8, 0};
    load_weights(turn);
    Turn ahead = turn;
    for (int i = 0; i < TURNS_AHEAD; i++) prefetch_turn(ahead = next(ahead));
    begin_outputs(turn);
    if (NORMED) {
        const Norm &norm = linear.norm;
        // A thread has eight numbers of each row: there is a warp for a chunk.
        int i = 8 * threadIdx.x;
        float scales[8], shifts[8];
        eight_of_row(scales, norm.weight, i, norm.width);
        eight_of_row(shifts, norm.bias, i, norm.width);
        after_previous();
        // The block asks for a whole row at once, before warps share the rows.
        float values[8];
        eight_of_row(values, row_of(norm, first_row), i, norm.width);
        for (int row = warp; row < rows; row += warps) {
            const float *from = row_of(norm, first_row + row);
            Statistics of_row = statistics_of(from, norm.width, norm.epsilon);
            if (lane == 0) statistics[row] = of_row;
        }
        __syncthreads();
        // An odd number of half lines, so that rows lie in different banks.
        stride = linear.k | STEP;
        for (int row = 0; row < rows; row++) {
            if (row > 0) eight_of_row(values, row_of(norm, first_row + row), i, norm.width);
            if (i >= linear.k) continue;
            Eight packed;
#pragma unroll
            for (int p = 0; p < 4; p++) {
                float two[2];
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    int at = 2 * p + e;
                    float v = normed(values[at], statistics[row], scales[at], shifts[at]);
                    two[e] = i + at < norm.width ? v : 0.0f;
                }
                packed.pairs[p] = two_of<T>(two[0], two[1]);
            }
            *reinterpret_cast<Eight *>(normed_rows + row * stride + i) = packed;
        }
        __syncthreads();
    } else {
        after_previous();
        x += (size_t)first_row * linear.k;
    }

    Two totals = {};
    ending.load_before();
#pragma unroll 1
    for (int side = 0; turn.first_n < linear.n; side = 1 - side) {
        int first = (turn.first_chunk + warp) * CHUNK;
        float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (NORMED) multiply_chunk<T, 1>(sums, normed_rows, stride, rows, first, linear.k, columns);
        else if (rows <= 8) multiply_chunk<T, 1>(sums, x, stride, rows, first, linear.k, columns);
        else multiply_chunk<T, 2>(sums, x, stride, rows, first, linear.k, columns);
        Turn after = next(turn);
        load_weights(after);
        prefetch_turn(ahead = next(ahead));
        for (int half = 0; half < HALVES; half++)
            parts[side][warp][half][lane] = Two{{sums[2 * half], sums[2 * half + 1]}};
        __syncthreads();
        for (int c = 0; warp < HALVES && c < min(warps, chunks - turn.first_chunk); c++)
            for (int e = 0; e < 2; e++) totals.values[e] += parts[side][c][warp][lane].values[e];
        if (after.first_n != turn.first_n) {
            ending.store({totals});
            totals = Two{};
            begin_outputs(after);
            ending.load_before();
        }
        turn = after;
    }
}
