// GPT-2's kernels for NVIDIA GPUs. The residual stream is f32; weights, the
// activations that meet them, keys and values are T: float, bf16 or f16.
//
// A row's result depends on nothing but the row: each sum has one order,
// whatever the other rows, their number, or the kernel chosen for it.
// build.rs compiles this file; tests/cuda compiles it for the processor too.

#include "attention.cuh"
#include "limits.cuh"
#include "linear/few.cuh"
#include "linear/many.cuh"
#include "linear/plain.cuh"
#include "norm.cuh"
#include "sample/pick.cuh"

// x [rows, width] = wte[tokens] + wpe[positions]; a block of threads for a row.
template <class T>
__device__ void embed(float *x, const T *wte, const float *wpe, const Rows &rows, int width,
                      int padded) {
    after_previous();
    int row = blockIdx.x;
    int position = rows.positions[row] < 0 ? 0 : rows.positions[row];
    const T *token = wte + (size_t)rows.tokens[row] * padded;
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        x[(size_t)row * width + i] = to_float(token[i]) + wpe[(size_t)position * width + i];
}

#define KERNEL extern "C" __global__ void
#define FOR_FORMAT(name, T)                                                                        \
    KERNEL embed_##name(float *x, const T *wte, const float *wpe, Rows rows, int width,            \
                        int padded) {                                                              \
        embed<T>(x, wte, wpe, rows, width, padded);                                                \
    }                                                                                              \
    KERNEL layer_norm_##name(T *y, Norm norm, int rows, int padded) {                              \
        layer_norm<T>(y, norm, rows, padded);                                                      \
    }                                                                                              \
    KERNEL write_cache_##name(T *cache, const T *qkv, Rows rows, int count, Heads heads,           \
                              int stride) {                                                        \
        write_cache<T>(cache, qkv, rows, count, heads, stride);                                    \
    }                                                                                              \
    KERNEL __launch_bounds__(WARP)                                                                 \
        attention_weights_##name(float *out, const T *cache, const T *qkv, Rows rows,              \
                                 const uint32_t *list, Heads heads, int stride, int most) {        \
        attention_weights<T>(out, cache, qkv, rows, list, heads, stride, most);                    \
    }

// So that 16 warps of the kernels for few rows leave room for blocks of the next.
#define FEW_REGISTERS 96

// As many threads as launch.rs and linear.rs have of each.
#define FOR_TENSOR_CORES(name, T)                                                                  \
    KERNEL __maxnreg__(FEW_REGISTERS) linear_few_##name(Linear linear) {              \
        linear_few<T, false>(linear);                                                              \
    }                                                                                              \
    KERNEL __maxnreg__(FEW_REGISTERS) linear_normed_##name(Linear linear) {           \
        linear_few<T, true>(linear);                                                               \
    }                                                                                              \
    KERNEL __launch_bounds__(MOST_WARPS * WARP) linear_some_##name(Linear linear) {                \
        linear_some<T>(linear);                                                                    \
    }                                                                                              \
    KERNEL __launch_bounds__(MANY_THREADS) linear_many_##name(Linear linear) {                     \
        linear_many<T>(linear);                                                                    \
    }                                                                                              \
    KERNEL __launch_bounds__(SEGMENTS * WARP, 2)                                                   \
        attention_few_##name(T *out, T *cache, const T *qkv, Rows rows, const uint32_t *list,      \
                             Heads heads, int stride, int padded, int writes) {                    \
        attention_few<T>(out, cache, qkv, rows, list, heads, stride, padded, writes);              \
    }                                                                                              \
    KERNEL __launch_bounds__(TILE_WARPS * WARP, 2)                                                 \
        attention_many_##name(T *out, const T *cache, const T *qkv, Rows rows, int count,          \
                              const uint32_t *tiles, int tile_count, Heads heads, int stride,      \
                              int padded) {                                                        \
        attention_many<T>(out, cache, qkv, rows, count, tiles, tile_count, heads, stride, padded); \
    }

FOR_FORMAT(f32, float)
FOR_FORMAT(bf16, bf16)
FOR_FORMAT(f16, f16)
FOR_TENSOR_CORES(bf16, bf16)
FOR_TENSOR_CORES(f16, f16)
KERNEL __launch_bounds__(8 * PLAIN_PARTS) linear_few_f32(Linear linear) {
    linear_plain_few(linear);
}
KERNEL __launch_bounds__(256) linear_many_f32(Linear linear) { linear_plain_many(linear); }
KERNEL __launch_bounds__(PLAIN_WARPS * WARP)
    attention_f32(float *out, float *cache, const float *qkv, Rows rows, Heads heads, int stride,
                  int padded, int writes) {
    attention_plain(out, cache, qkv, rows, heads, stride, padded, writes);
}
KERNEL __launch_bounds__(SAMPLE_THREADS)
    scan(Slice *slices, const float *logits, const Pick *picks, int vocab) {
    scan_slice(slices, logits, picks, vocab);
}
KERNEL __launch_bounds__(SAMPLE_THREADS) sample(Picked *picked, const float *logits,
                                                const Slice *slices, const Pick *picks, int vocab) {
    pick_token(picked, logits, slices, picks, vocab);
}
KERNEL read_through_u8(uint32_t *out, const Eight *values, size_t count) {
    read_through(out, values, count);
}
KERNEL multiply_add_f32(float *out, int rounds) { multiply_add_plain(out, rounds); }
KERNEL multiply_add_bf16(float *out, int rounds) { multiply_add<bf16>(out, rounds); }
KERNEL multiply_add_f16(float *out, int rounds) { multiply_add<f16>(out, rounds); }
