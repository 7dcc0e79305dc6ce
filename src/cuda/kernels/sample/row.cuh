// What is wanted of rows of logits, and what a block does with one. Weights are
// added up as whole numbers, exact in any order, so that a row's choice has the
// same bits whatever else is computed.
#pragma once

#include "../common.cuh"

// What is wanted of a row; sample.rs has the same numbers and fields.
enum PickKind { WHOLE_ROW, GREEDY, DRAW };
struct Pick {
    // In [0, 1): where the draw inverts the distribution.
    double u;
    int kind;
    // Columns that may be chosen; those after them count in the total only.
    int columns;
    // 0 keeps all.
    int top_k;
    float temperature, top_p, min_p;
};

// As shuffles take it.
typedef unsigned long long u64;

#define SAMPLE_THREADS 512
#define SAMPLE_WARPS (SAMPLE_THREADS / WARP)
// Loads of a thread at a time.
#define AT_ONCE 8

// The largest of all threads' values, the same for each.
__device__ inline u64 block_max(u64 v) {
    __shared__ u64 parts[SAMPLE_WARPS];
    auto larger = [](u64 a, u64 b) { return a > b ? a : b; };
    v = warp_fold(v, larger);
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = v;
    __syncthreads();
    for (int warp = 0; warp < SAMPLE_WARPS; warp++) v = larger(v, parts[warp]);
    __syncthreads();
    return v;
}

// The sums of the lanes' values: each lane gets one of them, and its number.
// Halves are exchanged instead of all values summed by all lanes. `number` is 0
// before.
template <int count, int mask = WARP / 2>
__device__ inline u64 warp_totals(u64 (&values)[count], int &number) {
    if constexpr (mask == 0) {
        return values[0];
    } else if constexpr (count == 1) {
        values[0] += __shfl_xor_sync(ALL_LANES, values[0], mask);
        return warp_totals<1, mask / 2>(values, number);
    } else {
        bool upper = threadIdx.x & mask;
        u64 half[count / 2];
#pragma unroll
        for (int i = 0; i < count / 2; i++) {
            u64 given = upper ? values[i] : values[count / 2 + i];
            u64 kept = upper ? values[count / 2 + i] : values[i];
            half[i] = kept + __shfl_xor_sync(ALL_LANES, given, mask);
        }
        if (upper) number += count / 2;
        return warp_totals<count / 2, mask / 2>(half, number);
    }
}

// The sums of all threads' values, the same for each; `count` is a power of two.
template <int count> __device__ inline void block_totals(u64 (&values)[count]) {
    static_assert(count <= SAMPLE_WARPS && SAMPLE_WARPS <= WARP, "a warp for each total");
    __shared__ u64 parts[count][SAMPLE_WARPS + 1], totals[count];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, number = 0;
    u64 of_warp = warp_totals(values, number);
    parts[number][warp] = of_warp;
    __syncthreads();
    if (warp < count) {
        u64 total = warp_sum(lane < SAMPLE_WARPS ? parts[warp][lane] : 0);
        if (lane == 0) totals[warp] = total;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < count; i++) values[i] = totals[i];
}

// Numbers in the order of the floats, equal where these are; 0 for NaN.
__device__ inline uint32_t ordered(float v) {
    // Makes one zero of two.
    uint32_t bits = __float_as_uint(v + 0.0f);
    if (v != v) return 0;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

__device__ inline float from_ordered(uint32_t number) {
    return __uint_as_float(number >> 31 ? number ^ 0x80000000u : ~number);
}

// A weight of 0 to 1 in units of 2^-44: 2^19 of them have room in a sum.
__device__ inline u64 fixed_point(float weight) {
    return weight > 0.0f ? (u64)(weight * 0x1p44f) : 0;
}

__device__ inline double from_fixed_point(u64 weight) { return (double)weight * 0x1p-44; }

// A row's columns first, first + `stride` and so on, all asked for at once; from
// `end` on, no numbers.
template <int stride>
__device__ inline void load_columns(float (&values)[AT_ONCE], const float *row, int first,
                                    int end) {
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) {
        int i = first + j * stride;
        values[j] = i < end ? row[i] : from_ordered(0);
    }
}
