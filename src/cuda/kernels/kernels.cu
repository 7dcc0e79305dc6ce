// GPT-2's kernels for NVIDIA GPUs. The residual stream is f32; weights, the
// activations that meet them, keys and values are T: float, bf16 or f16.
//
// A row's result depends on nothing but the row: each sum has one order,
// whatever the other rows, their number, or the kernel chosen for it.
// build.rs compiles this file; tests/cuda compiles it for the processor too.

#ifdef GPT2_EMULATED
#include "emulated.h"
#else
#include "device.cuh"
#endif

#define WARP 32
#define ALL_LANES 0xffffffffu
// Positions in a block of the cache, as in the engine.
#define BLOCK 32
// Products are summed in chunks of so many inputs, the chunks one after another.
#define CHUNK 256
// Inputs that a tensor core product takes twice over; rows are padded to it.
#define STEP 32
// Most numbers of a head that a lane of attention holds: heads of 256 at most.
#define HEAD_PARTS 8

// What becomes of a linear layer's sums; network.rs has the same numbers.
enum Then { STORE = 0, ADD = 1, LOGITS = 2, ACTIVATE = 3 };
enum Activation { GELU, GELU_TANH, QUICK_GELU, RELU, SILU, TANH, SIGMOID, LINEAR };

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Not inlined: a thread of linear_many has 64 sums to finish.
__device__ __noinline__ float activate(float x, int activation) {
    switch (activation) {
    case GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case QUICK_GELU: return x * sigmoid(1.702f * x);
    case RELU: return x > 0.0f ? x : 0.0f;
    case SILU: return x * sigmoid(x);
    case TANH: return tanhf(x);
    case SIGMOID: return sigmoid(x);
    default: return x;
    }
}

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

// The sum over a block of 256 threads, the same for each.
__device__ inline float block_sum(float v) {
    __shared__ float sums[8];
    v = warp_sum(v);
    if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = v;
    __syncthreads();
    float total = 0.0f;
    for (int i = 0; i < 8; i++) total += sums[i];
    __syncthreads();
    return total;
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

__device__ inline size_t block_of(const Rows &rows, int row, int position) {
    return rows.tables[(size_t)rows.sequences[row] * rows.stride + position / BLOCK];
}

// x [rows, width] = wte[tokens] + wpe[positions]; a block of threads for a row.
template <class T>
__device__ void embed(float *x, const T *wte, const float *wpe, const Rows &rows, int width,
                      int padded) {
    int row = blockIdx.x;
    int position = rows.positions[row] < 0 ? 0 : rows.positions[row];
    const T *token = wte + (size_t)rows.tokens[row] * padded;
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        x[(size_t)row * width + i] = to_float(token[i]) + wpe[(size_t)position * width + i];
}

// y [rows, padded] = LayerNorm of the rows of x [.., width] that `index`
// names, or of all; 256 threads for a row.
template <class T>
__device__ void layer_norm(T *y, const float *x, const float *weight, const float *bias,
                           const uint32_t *index, float epsilon, int width, int padded) {
    size_t row = index ? index[blockIdx.x] : blockIdx.x;
    const float *from = x + row * width;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) sum += from[i];
    float mean = block_sum(sum) / width;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float off = from[i] - mean;
        squares = fmaf(off, off, squares);
    }
    float scale = 1.0f / sqrtf(block_sum(squares) / width + epsilon);
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float v = fmaf((from[i] - mean) * scale, weight[i], bias[i]);
        y[(size_t)blockIdx.x * padded + i] = from_float<T>(v);
    }
}

// A linear layer: x [rows, k] · w [n, k] transposed, plus bias [n] or none.
struct Linear {
    void *y;
    const void *x;
    const void *w;
    const float *bias;
    // k and the rows of y are padded.
    int rows, k, n, y_stride;
    int then, activation;
};

template <class T> __device__ inline void finish(const Linear &linear, int row, int n, float v) {
    if (row >= linear.rows || n >= linear.n) return;
    if (linear.bias) v += linear.bias[n];
    size_t at = (size_t)row * linear.y_stride + n;
    switch (linear.then) {
    case ADD: static_cast<float *>(linear.y)[at] += v; break;
    case LOGITS: static_cast<float *>(linear.y)[at] = v; break;
    case ACTIVATE: v = activate(v, linear.activation);
    // Falls through.
    default: static_cast<T *>(linear.y)[at] = from_float<T>(v);
    }
}

// In f32, without tensor cores: 32 × 32 outputs for 256 threads, each sum in
// the order of k.
__device__ void linear_plain(const Linear &linear) {
    __shared__ float xs[32][33], ws[32][33];
    const float *x = static_cast<const float *>(linear.x);
    const float *w = static_cast<const float *>(linear.w);
    int first_n = blockIdx.x * 32, first_row = blockIdx.y * 32;
    int column = threadIdx.x % 32, line = threadIdx.x / 32;
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int k = 0; k < linear.k; k += 32) {
        for (int i = line; i < 32; i += 8) {
            int row = first_row + i, n = first_n + i;
            xs[i][column] = row < linear.rows ? x[(size_t)row * linear.k + k + column] : 0.0f;
            ws[i][column] = n < linear.n ? w[(size_t)n * linear.k + k + column] : 0.0f;
        }
        __syncthreads();
        for (int i = 0; i < 32; i++)
            for (int r = 0; r < 4; r++)
                sums[r] = fmaf(xs[line + 8 * r][i], ws[column][i], sums[r]);
        __syncthreads();
    }
    for (int r = 0; r < 4; r++)
        finish<float>(linear, first_row + line + 8 * r, first_n + column, sums[r]);
}

// Eight numbers of a row, two products' worth.
struct alignas(16) Eight {
    uint32_t pairs[4];
};

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

// For few rows, where reading the weights is all: 16 rows × 8 outputs for a
// block, each of its warps on a chunk of the inputs.
#define MOST_WARPS 32
template <class T> __device__ void linear_few(const Linear &linear) {
    __shared__ float parts[MOST_WARPS][16 * 8];
    const T *x = static_cast<const T *>(linear.x);
    const T *w = static_cast<const T *>(linear.w);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    int group = lane / 4, q = lane % 4;
    int n = blockIdx.x * 8 + group, row = blockIdx.y * 16 + group;
    int chunks = (linear.k + CHUNK - 1) / CHUNK;
    float totals[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 1
    for (int first = 0; first < chunks; first += warps) {
        int chunk = first + warp;
        if (chunk < chunks) {
            int end = min(linear.k, (chunk + 1) * CHUNK);
            float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
            for (int k = chunk * CHUNK + 8 * q; k < end; k += STEP) {
                Eight column = eight(w + (size_t)n * linear.k + k, n < linear.n);
                Eight upper = eight(x + (size_t)row * linear.k + k, row < linear.rows);
                Eight lower = eight(x + (size_t)(row + 8) * linear.k + k, row + 8 < linear.rows);
                multiply_step<T>(sums, upper, lower, column);
            }
            for (int i = 0; i < 4; i++)
                parts[warp][(group + i / 2 * 8) * 8 + 2 * q + i % 2] = sums[i];
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int o = threadIdx.x + i * blockDim.x;
            for (int c = 0; o < 16 * 8 && c < min(warps, chunks - first); c++)
                totals[i] += parts[c][o];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int o = threadIdx.x + i * blockDim.x;
        if (o < 16 * 8)
            finish<T>(linear, blockIdx.y * 16 + o / 8, blockIdx.x * 8 + o % 8, totals[i]);
    }
}

// For many rows: 128 rows × 128 outputs for a block of 8 warps, 64 × 32 each.
// The sums are those of linear_few, bit for bit.
#define TILE 128
template <class T> __device__ void linear_many(const Linear &linear) {
    alignas(16) __shared__ T xs[2][TILE][STEP], ws[2][TILE][STEP];
    const T *x = static_cast<const T *>(linear.x);
    const T *w = static_cast<const T *>(linear.w);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int group = lane / 4, q = lane % 4;
    int first_n = blockIdx.x * TILE, first_row = blockIdx.y * TILE;
    int warp_row = warp / 4 * 64, warp_n = warp % 4 * 32;
    int steps = linear.k / STEP;

    auto load = [&](int step) {
        if (step < steps) {
            for (int i = threadIdx.x; i < TILE * 4; i += blockDim.x) {
                int line = i / 4, k = i % 4 * 8;
                int row = first_row + line, n = first_n + line;
                bool in_x = row < linear.rows, in_w = n < linear.n;
                copy_async(&xs[step % 2][line][k],
                           x + (size_t)(in_x ? row : 0) * linear.k + step * STEP + k, in_x);
                copy_async(&ws[step % 2][line][k],
                           w + (size_t)(in_w ? n : 0) * linear.k + step * STEP + k, in_w);
            }
        }
        copies_end_group();
    };

    float totals[4][4][4] = {}, sums[4][4][4] = {};
    load(0);
    for (int step = 0; step < steps; step++) {
        load(step + 1);
        copies_wait<1>();
        __syncthreads();
        Eight columns[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            columns[j] = eight(&ws[step % 2][warp_n + 8 * j + group][8 * q], true);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            Eight upper = eight(&xs[step % 2][warp_row + 16 * i + group][8 * q], true);
            Eight lower = eight(&xs[step % 2][warp_row + 16 * i + 8 + group][8 * q], true);
#pragma unroll
            for (int j = 0; j < 4; j++) multiply_step<T>(sums[i][j], upper, lower, columns[j]);
        }
        __syncthreads();
        if ((step + 1) % (CHUNK / STEP) == 0 || step + 1 == steps) {
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
#pragma unroll
                    for (int r = 0; r < 4; r++) totals[i][j][r] += sums[i][j][r], sums[i][j][r] = 0.0f;
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int r = 0; r < 4; r++)
                finish<T>(linear, first_row + warp_row + 16 * i + r / 2 * 8 + group,
                          first_n + warp_n + 8 * j + 2 * q + r % 2, totals[i][j][r]);
}

// The cache of a layer: [blocks, 2, heads, BLOCK, dim], keys before values.
struct Heads {
    int count, dim;
    float scale;
};

__device__ inline size_t cached(size_t block, int values, int head, int slot, const Heads &heads) {
    return (((block * 2 + values) * heads.count + head) * BLOCK + slot) * heads.dim;
}

// Puts the new keys and values of qkv [rows, 3·width] into the cache.
template <class T>
__device__ void write_cache(T *cache, const T *qkv, const Rows &rows, const Heads &heads,
                            int stride) {
    int row = blockIdx.x, position = rows.positions[row];
    if (position < 0) return;
    size_t block = block_of(rows, row, position);
    int width = heads.count * heads.dim;
    for (int i = threadIdx.x; i < 2 * width; i += blockDim.x) {
        int values = i / width, head = i % width / heads.dim, d = i % heads.dim;
        cache[cached(block, values, head, position % BLOCK, heads) + d] =
            qkv[(size_t)row * stride + width + i];
    }
}

// Causal attention of a row and head over the cached positions, itself
// included: qkv → out [rows, padded]; 4 warps, each with every fourth block of
// positions, a lane for a position (Dao et al., "FlashAttention", 2022).
#define ATTENTION_WARPS 4
template <class T>
__device__ void attention(T *out, const T *cache, const T *qkv, const Rows &rows,
                          const Heads &heads, int stride, int padded) {
    __shared__ float query[WARP * HEAD_PARTS];
    __shared__ float tops[ATTENTION_WARPS], weights[ATTENTION_WARPS];
    __shared__ float parts[ATTENTION_WARPS][WARP * HEAD_PARTS];
    int row = blockIdx.x, head = blockIdx.y, position = rows.positions[row];
    if (position < 0) return;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (int d = threadIdx.x; d < heads.dim; d += blockDim.x)
        query[d] = to_float(qkv[(size_t)row * stride + head * heads.dim + d]) * heads.scale;
    __syncthreads();

    float top = -INFINITY, weight = 0.0f, sums[HEAD_PARTS];
    for (int i = 0; i < HEAD_PARTS; i++) sums[i] = 0.0f;
    for (int first = warp * BLOCK; first <= position; first += ATTENTION_WARPS * BLOCK) {
        size_t block = block_of(rows, row, first);
        const T *keys = cache + cached(block, 0, head, lane, heads);
        const T *values = cache + cached(block, 1, head, 0, heads);
        bool seen = first + lane <= position;
        float score = 0.0f;
        if (seen)
            for (int d = 0; d < heads.dim; d++)
                score = fmaf(query[d], to_float(keys[d]), score);
        float higher = fmaxf(top, warp_max(seen ? score : -INFINITY));
        float p = seen ? expf(score - higher) : 0.0f;
        float before = expf(top - higher);
        top = higher;
        weight = fmaf(weight, before, warp_sum(p));
        for (int i = 0; i < HEAD_PARTS; i++) sums[i] *= before;
        int count = min(BLOCK, position + 1 - first);
        for (int slot = 0; slot < count; slot++) {
            float of_slot = __shfl_sync(ALL_LANES, p, slot);
            for (int i = 0; i < HEAD_PARTS; i++) {
                int d = i * WARP + lane;
                if (i * WARP < heads.dim && d < heads.dim)
                    sums[i] = fmaf(of_slot, to_float(values[(size_t)slot * heads.dim + d]), sums[i]);
            }
        }
    }
    if (lane == 0) tops[warp] = top, weights[warp] = weight;
    for (int i = 0; i < HEAD_PARTS; i++) parts[warp][i * WARP + lane] = sums[i];
    __syncthreads();
    float highest = tops[0], total = 0.0f;
    for (int i = 1; i < ATTENTION_WARPS; i++) highest = fmaxf(highest, tops[i]);
    for (int i = 0; i < ATTENTION_WARPS; i++) total += weights[i] * expf(tops[i] - highest);
    for (int d = threadIdx.x; d < heads.dim; d += blockDim.x) {
        float sum = 0.0f;
        for (int i = 0; i < ATTENTION_WARPS; i++)
            sum = fmaf(parts[i][d], expf(tops[i] - highest), sum);
        out[(size_t)row * padded + head * heads.dim + d] = from_float<T>(sum / total);
    }
}

#include "sample.cuh"

// What the device could do, for the benchmarks: reading memory, and products of
// values in registers. The results are kept alive, and are nothing.
__device__ void read_through(uint32_t *out, const Eight *values, size_t count) {
    uint32_t seen = 0;
    size_t threads = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += threads) {
        Eight v = values[i];
        seen |= v.pairs[0] | v.pairs[1] | v.pairs[2] | v.pairs[3];
    }
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

#define KERNEL extern "C" __global__ void
#define FOR_FORMAT(name, T)                                                                        \
    KERNEL embed_##name(float *x, const T *wte, const float *wpe, Rows rows, int width,            \
                        int padded) {                                                              \
        embed<T>(x, wte, wpe, rows, width, padded);                                                \
    }                                                                                              \
    KERNEL layer_norm_##name(T *y, const float *x, const float *weight, const float *bias,         \
                             const uint32_t *index, float epsilon, int width, int padded) {        \
        layer_norm<T>(y, x, weight, bias, index, epsilon, width, padded);                          \
    }                                                                                              \
    KERNEL write_cache_##name(T *cache, const T *qkv, Rows rows, Heads heads, int stride) {        \
        write_cache<T>(cache, qkv, rows, heads, stride);                                           \
    }                                                                                              \
    KERNEL attention_##name(T *out, const T *cache, const T *qkv, Rows rows, Heads heads,          \
                            int stride, int padded) {                                              \
        attention<T>(out, cache, qkv, rows, heads, stride, padded);                                \
    }

FOR_FORMAT(f32, float)
FOR_FORMAT(bf16, bf16)
FOR_FORMAT(f16, f16)
KERNEL linear_plain_f32(Linear linear) { linear_plain(linear); }
KERNEL __launch_bounds__(1024) linear_few_bf16(Linear linear) { linear_few<bf16>(linear); }
KERNEL __launch_bounds__(1024) linear_few_f16(Linear linear) { linear_few<f16>(linear); }
KERNEL __launch_bounds__(256) linear_many_bf16(Linear linear) { linear_many<bf16>(linear); }
KERNEL __launch_bounds__(256) linear_many_f16(Linear linear) { linear_many<f16>(linear); }
KERNEL __launch_bounds__(SAMPLE_THREADS)
    sample(Picked *picked, const float *logits, const Pick *picks, int vocab) {
    pick_token(picked, logits, picks, vocab);
}
KERNEL read_through_u8(uint32_t *out, const Eight *values, size_t count) {
    read_through(out, values, count);
}
KERNEL multiply_add_f32(float *out, int rounds) { multiply_add_plain(out, rounds); }
KERNEL multiply_add_bf16(float *out, int rounds) { multiply_add<bf16>(out, rounds); }
KERNEL multiply_add_f16(float *out, int rounds) { multiply_add<f16>(out, rounds); }
