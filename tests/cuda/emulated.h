// What src/cuda/kernels/device.cuh has, for a processor: the threads of a block
// are fibers that take turns, so that barriers, shuffles and tensor core
// products do what they do on a GPU. Slow, and the same every time.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>

struct Uint3 {
    unsigned x, y, z;
};

// The block that runs; driver.cpp has these.
extern Uint3 threadIdx, blockIdx, blockDim, gridDim;
// Waits for all threads of the block, and for those of the warp.
void __syncthreads();
void wait_for_warp();
// 64 bytes of each of the warp's lanes, to be read by the others.
extern unsigned char (*warp_board)[64];

#define __global__
#define __device__
// One block runs at a time.
#define __shared__ static
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __noinline__

using std::max;
using std::min;

struct bf16 {
    uint16_t bits;
};
typedef _Float16 f16;

inline float to_float(float v) { return v; }
inline float to_float(f16 v) { return (float)v; }
inline float to_float(bf16 v) {
    uint32_t bits = (uint32_t)v.bits << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

template <class T> inline T from_float(float v);
template <> inline float from_float<float>(float v) { return v; }
template <> inline f16 from_float<f16>(float v) {
    return (f16)fminf(fmaxf(v, -65504.0f), 65504.0f);
}
template <> inline bf16 from_float<bf16>(float v) {
    uint32_t bits;
    memcpy(&bits, &v, 4);
    if (v != v) return bf16{(uint16_t)(bits >> 16 | 0x40)};
    // To the nearest, of two as near to the even one.
    return bf16{(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

template <class T> uint32_t two_of(float first, float second) {
    T both[2] = {from_float<T>(first), from_float<T>(second)};
    uint32_t word;
    memcpy(&word, both, 4);
    return word;
}
template <class T> void store_two(T *to, float first, float second) {
    to[0] = from_float<T>(first), to[1] = from_float<T>(second);
}

void after_previous();
inline void prefetch(const void *) {}
template <class V> V of_batch(const V *at) { return *at; }

template <class V> V from_lane(V v, int lane) {
    memcpy(warp_board[threadIdx.x % 32], &v, sizeof v);
    wait_for_warp();
    V theirs;
    memcpy(&theirs, warp_board[lane], sizeof v);
    wait_for_warp();
    return theirs;
}

template <class V> V __shfl_xor_sync(unsigned, V v, int mask) {
    return from_lane(v, (int)(threadIdx.x % 32) ^ mask);
}
template <class V> V __shfl_sync(unsigned, V v, int lane) { return from_lane(v, lane); }

// Threads take turns at barriers only.
inline int atomicAdd(int *to, int v) {
    int before = *to;
    *to += v;
    return before;
}

inline uint32_t __float_as_uint(float v) {
    uint32_t bits;
    memcpy(&bits, &v, 4);
    return bits;
}
inline float __uint_as_float(uint32_t bits) {
    float v;
    memcpy(&v, &bits, 4);
    return v;
}

inline void copy_async(void *to, const void *from, bool valid) {
    if (valid) memcpy(to, from, 16);
    else memset(to, 0, 16);
}
inline void copies_end_group() {}
template <int pending> inline void copies_wait() {}

// sums [16, 8] += a [16, 16] · b [16, 8]; lane l holds of rows g = l / 4 and
// g + 8, and of columns g, the pairs at 2q and 2q + 8, q = l % 4; of the sums,
// rows g and g + 8 at columns 2q and 2q + 1.
template <class T>
void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    int lane = threadIdx.x % 32;
    memcpy(warp_board[lane], a, sizeof a);
    memcpy(warp_board[lane] + sizeof a, b, sizeof b);
    wait_for_warp();
    auto pair = [](int lane, int reg, int part) {
        T v;
        memcpy(&v, warp_board[lane] + 4 * reg + 2 * part, 2);
        return to_float(v);
    };
    for (int i = 0; i < 4; i++) {
        int group = lane / 4, lower = i / 2, column = 2 * (lane % 4) + i % 2;
        float sum = sums[i];
        for (int k = 0; k < 16; k++) {
            int q = k % 8 / 2, upper_half = k / 8, part = k % 2;
            float of_a = pair(4 * group + q, 2 * upper_half + lower, part);
            float of_b = pair(4 * column + q, 4 + upper_half, part);
            sum = fmaf(of_a, of_b, sum);
        }
        sums[i] = sum;
    }
    wait_for_warp();
}
