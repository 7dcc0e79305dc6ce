// Linear layers: x [rows, k] · w [n, k] transposed. Each sum is made in chunks
// of CHUNK inputs, added one after another, whoever computes them.
#pragma once

#include "norm.cuh"

#define CHUNK 256

// What becomes of the sums; arguments.rs has the same numbers.
enum Then { STORE = 0, ADD = 1, LOGITS = 2, ACTIVATE = 3 };
enum Activation { GELU, GELU_TANH, QUICK_GELU, RELU, SILU, TANH, SIGMOID, LINEAR };

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Not inlined: a thread of linear_many has 64 sums to finish.
__device__ __noinline__ float activate_otherwise(float x, int activation) {
    switch (activation) {
    case GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case QUICK_GELU: return x * sigmoid(1.702f * x);
    case RELU: return x > 0.0f ? x : 0.0f;
    case SILU: return x * sigmoid(x);
    case TANH: return tanhf(x);
    case SIGMOID: return sigmoid(x);
    default: return x;
    }
}

__device__ inline float activate(float x, int activation) {
    // GPT-2's own: (1 + tanh(u)) / 2 is sigmoid(2u).
    if (activation == GELU_TANH)
        return x * sigmoid(1.59576912160573071f * fmaf(0.044715f * x * x, x, x));
    return activate_otherwise(x, activation);
}

struct Linear {
    void *y;
    // Unless `norm` has its rows.
    const void *x;
    const void *w;
    // [n], or none.
    const float *bias;
    // k and the rows of y are padded.
    int rows, k, n, y_stride;
    int then, activation;
    Norm norm;
};

// What ends some sums, each of a row and outputs n and n + 1, n even. What they
// meet is loaded for all of them before the first is stored.
template <class T, int count> struct Ending {
    const Linear &linear;
    int rows[count], ns[count];
    Two biases[count], before[count];

    // Whether two outputs lie in one piece, which is aligned.
    __device__ bool pairs() const { return linear.n % 2 == 0 && linear.y_stride % 2 == 0; }
    __device__ bool has(int i, int e) const {
        return rows[i] < linear.rows && ns[i] + e < linear.n;
    }
    __device__ size_t at(int i) const { return (size_t)rows[i] * linear.y_stride + ns[i]; }

    // The weights' part, which no kernel before this one touches.
    __device__ void load_biases() {
#pragma unroll
        for (int i = 0; i < count; i++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                biases[i].values[e] = linear.bias && has(i, e) ? linear.bias[ns[i] + e] : 0.0f;
    }

    __device__ void load_before() {
        const float *y = static_cast<const float *>(linear.y);
#pragma unroll
        for (int i = 0; i < count; i++) {
            before[i] = Two{};
            if (linear.then != ADD) continue;
            if (pairs()) {
                if (has(i, 0)) before[i] = *reinterpret_cast<const Two *>(y + at(i));
            } else {
#pragma unroll
                for (int e = 0; e < 2; e++)
                    if (has(i, e)) before[i].values[e] = y[at(i) + e];
            }
        }
    }

    __device__ void store(const Two (&sums)[count]) {
#pragma unroll
        for (int i = 0; i < count; i++) {
            Two v = sums[i];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                if (linear.bias) v.values[e] += biases[i].values[e];
                if (linear.then == ACTIVATE) v.values[e] = activate(v.values[e], linear.activation);
                if (linear.then == ADD) v.values[e] = before[i].values[e] + v.values[e];
            }
            float *floats = static_cast<float *>(linear.y) + at(i);
            T *numbers = static_cast<T *>(linear.y) + at(i);
            bool wide = linear.then == ADD || linear.then == LOGITS;
            if (pairs()) {
                if (!has(i, 0)) continue;
                if (wide) *reinterpret_cast<Two *>(floats) = v;
                else store_two(numbers, v.values[0], v.values[1]);
                continue;
            }
#pragma unroll
            for (int e = 0; e < 2; e++) {
                if (!has(i, e)) continue;
                if (wide) floats[e] = v.values[e];
                else numbers[e] = from_float<T>(v.values[e]);
            }
        }
    }

    __device__ void finish(const Two (&sums)[count]) {
        load_biases();
        load_before();
        store(sums);
    }
};

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

// For few rows, where reading the weights is all: 16 rows × 8 outputs at a time
// for a block, each of its warps on a chunk of the inputs; then what is left of
// these inputs, then other outputs. With `NORMED`, x is the LayerNorm of rows of
// floats, computed by every block for itself.
#define MOST_WARPS 16
// Rows that are normed, and the numbers of each, at most.
#define NORMED_ROWS 4
#define MOST_WIDTH 2048
#define NORMED_WARPS (MOST_WIDTH / CHUNK)
template <class T, bool NORMED> __device__ void linear_few(const Linear &linear) {
    // Of two turns, so that one is written while the other is read.
    __shared__ Two parts[2][NORMED ? NORMED_WARPS : MOST_WARPS][HALVES][WARP];
    alignas(16) __shared__ T normed_rows[NORMED ? NORMED_ROWS * (MOST_WIDTH + STEP) : 8];
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
    prefetch_turn(next(turn));
    begin_outputs(turn);
    if (NORMED) {
        const Norm &norm = linear.norm;
        // A thread has eight numbers of each row: there is a warp for a chunk.
        int i = 8 * threadIdx.x;
        float scales[8], shifts[8];
        eight_of_row(scales, norm.weight, i, norm.width);
        eight_of_row(shifts, norm.bias, i, norm.width);
        after_previous();
        // An odd number of half lines, so that rows lie in different banks.
        stride = linear.k | STEP;
        for (int row = 0; row < rows; row++) {
            const float *from = row_of(norm, first_row + row);
            // By each warp for itself.
            Statistics of_row = statistics_of(from, norm.width, norm.epsilon);
            if (i >= linear.k) continue;
            float values[8];
            eight_of_row(values, from, i, norm.width);
            for (int e = 0; e < 8; e++)
                if (i + e < norm.width) values[e] = normed(values[e], of_row, scales[e], shifts[e]);
            Eight packed;
#pragma unroll
            for (int p = 0; p < 4; p++)
                packed.pairs[p] = two_of<T>(values[2 * p], values[2 * p + 1]);
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
        prefetch_turn(next(after));
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
