// What greedy choice and log probabilities need of a row, slice by slice, so that
// one row keeps several multiprocessors busy.
#pragma once

#include "row.cuh"

// Columns of a slice, in registers.
#define SLICE_COLUMNS (AT_ONCE * SAMPLE_THREADS)

struct Slice {
    // The first of the largest logits that may be chosen: how `ordered` numbers
    // it, then its column, inverted.
    u64 best;
    // Of e^(logit - top), `fixed_point`.
    u64 total;
    // The largest of all.
    float top;
};

__device__ inline int slices_of(int vocab) { return (vocab + SLICE_COLUMNS - 1) / SLICE_COLUMNS; }

// slices [rows, slices], of logits [rows, vocab] and picks [rows]; a block for a
// slice. Rows that are wanted whole are left alone.
__device__ inline void scan_slice(Slice *slices, const float *logits, const Pick *picks,
                                  int vocab) {
    // The batch was there before any kernel.
    const Pick pick = of_batch(picks + blockIdx.x);
    after_previous();
    if (pick.kind == WHOLE_ROW) return;
    const float *row = logits + (size_t)blockIdx.x * vocab;
    int first = blockIdx.y * SLICE_COLUMNS + threadIdx.x;
    float values[AT_ONCE];
    load_columns<SAMPLE_THREADS>(values, row, first, vocab);
    u64 best = 0;
    uint32_t largest = 0;
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) {
        int i = first + j * SAMPLE_THREADS;
        uint32_t number = ordered(values[j]);
        if (i < pick.columns) best = max(best, (u64)number << 32 | ~(uint32_t)i);
        largest = max(largest, number);
    }
    best = block_max(best);
    float top = from_ordered((uint32_t)block_max(largest));
    u64 total[1] = {0};
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) total[0] += fixed_point(expf(values[j] - top));
    block_totals(total);
    if (threadIdx.x > 0) return;
    slices[(size_t)blockIdx.x * gridDim.y + blockIdx.y] = Slice{best, total[0], top};
}

// What is known of a whole row, by each thread of a block.
struct Scanned {
    uint32_t likeliest;
    // Its logit.
    float highest;
    // log(sum of e^logit).
    float log_total;
};

__device__ inline Scanned join_slices(const Slice *slices, int count) {
    Slice mine{0, 0, from_ordered(0)};
    if (threadIdx.x < count) mine = slices[threadIdx.x];
    u64 best = block_max(mine.best);
    float top = from_ordered((uint32_t)block_max(ordered(mine.top)));
    // There is room for 128 slices.
    float scale = expf(mine.top - top);
    u64 total[1] = {scale > 0.0f ? (u64)((double)mine.total * scale) : 0};
    block_totals(total);
    return Scanned{best ? ~(uint32_t)best : 0, from_ordered((uint32_t)(best >> 32)),
                   top + logf((float)from_fixed_point(total[0]))};
}
