// The choice of a row's next token, by the definitions of src/engine/sampling:
// temperature and top-k look at logits; a token's weight is e^(logit − highest)
// of what is left, top-p and min-p keep the tokens from some weight on, and the
// draw inverts the cumulative distribution in the order of ids.
//
// Weights are added up as whole numbers, exact in any order, so that a row's
// choice has the same bits whatever else is computed.
#pragma once

#include "common.cuh"

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

struct Picked {
    uint32_t id;
    float logprob;
};

// As shuffles take it.
typedef unsigned long long u64;

#define SAMPLE_THREADS 1024
#define SAMPLE_WARPS (SAMPLE_THREADS / WARP)
// Parts into which a search divides a range of keys in each round.
#define PARTS 8
// Items that a search holds in shared memory.
#define HELD 2048

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
// Halves are exchanged instead of all values summed by all lanes.
template <int count> __device__ inline u64 warp_totals(u64 (&values)[count], int &number) {
    int lane = threadIdx.x % WARP, mask = WARP / 2;
    number = 0;
#pragma unroll
    for (int n = count / 2; n > 0; n /= 2, mask /= 2) {
        bool upper = lane & mask;
#pragma unroll
        for (int i = 0; i < n; i++) {
            u64 given = upper ? values[i] : values[n + i];
            u64 kept = upper ? values[n + i] : values[i];
            values[i] = kept + __shfl_xor_sync(ALL_LANES, given, mask);
        }
        if (upper) number += n;
    }
    for (; mask > 0; mask /= 2) values[0] += __shfl_xor_sync(ALL_LANES, values[0], mask);
    return values[0];
}

// The sums of all threads' values, the same for each; `count` is a power of two.
template <int count> __device__ inline void block_totals(u64 (&values)[count]) {
    static_assert(SAMPLE_WARPS == WARP, "a lane for each warp's part");
    __shared__ u64 parts[count][SAMPLE_WARPS + 1], totals[count];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, number;
    u64 of_warp = warp_totals(values, number);
    parts[number][warp] = of_warp;
    __syncthreads();
    if (warp < count) {
        u64 total = warp_sum(parts[warp][lane]);
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

// Something to find by its key, and how much there is of it.
struct Item {
    uint32_t key;
    u64 amount;
};

// Memory of a block for items, and how many there are.
struct Held {
    Item items[HELD];
    int count;
};

// How far below the highest logit the parts of a search's first round begin:
// the keys are far from evenly spread, and most of them of no interest.
__device__ inline float distance(int part) { return (float)(1 << (PARTS - 1 - part)) * 0.5f; }

// The largest key from which on the amounts sum to `wanted` or more, where all
// of them do. Keys are below `end`; those of the first round's parts are given.
template <class F, class B>
__device__ uint32_t search(Held &held, int columns, F item, B first_bound, uint32_t end,
                           u64 wanted) {
    uint32_t low = 0;
    // What lies from `end` on.
    u64 above = 0;
    bool first = true, is_held = false;
    int count = columns;
    while (end - low > 1) {
        uint32_t bounds[PARTS];
#pragma unroll
        for (int i = 0; i < PARTS; i++)
            bounds[i] = i == 0 ? low
                        : first ? first_bound(i)
                                : low + (uint32_t)((u64)(end - low) * i / PARTS);
        // Of each bound, what lies from there to `end`, and how many items.
        u64 sums[2 * PARTS] = {};
        uint32_t counts[PARTS] = {};
        for (int i = threadIdx.x; i < count; i += SAMPLE_THREADS) {
            Item it = is_held ? held.items[i] : item(i);
            if (it.key >= end) continue;
#pragma unroll
            for (int j = 0; j < PARTS; j++)
                if (it.key >= bounds[j]) sums[j] += it.amount, counts[j]++;
        }
#pragma unroll
        for (int i = 0; i < PARTS; i++) sums[PARTS + i] = counts[i];
        block_totals(sums);
        u64 above_part = above, left = 0;
#pragma unroll
        for (int i = PARTS - 1; i >= 0; i--) {
            bool here = i == 0 || above + sums[i] >= wanted;
            if (!here) {
                end = bounds[i];
                above_part = above + sums[i];
                left = sums[PARTS + i];
                continue;
            }
            low = bounds[i];
            left = sums[PARTS + i] - left;
            break;
        }
        above = above_part;
        first = false;
        if (is_held || left > HELD || end - low <= 1) continue;
        if (threadIdx.x == 0) held.count = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < columns; i += SAMPLE_THREADS) {
            Item it = item(i);
            // In whatever order: they are only added up.
            if (it.key >= low && it.key < end) held.items[atomicAdd(&held.count, 1)] = it;
        }
        __syncthreads();
        is_held = true;
        count = (int)left;
    }
    return low;
}

// What may be drawn of a row.
struct Candidates {
    const float *logits;
    int columns;
    float temperature;
    // The highest logit, after the temperature.
    float highest;
    // The k-th largest, as `ordered` numbers it.
    uint32_t kth = 0;
    // The weight from which on they are kept.
    float cut = 0.0f;

    __device__ float cooled(int i) const { return logits[i] / temperature; }

    // Before the cut.
    __device__ float weight(int i) const {
        float logit = cooled(i);
        return ordered(logit) >= kth ? expf(logit - highest) : 0.0f;
    }

    __device__ u64 kept(int i) const {
        if (i >= columns) return 0;
        float w = weight(i);
        return w >= cut ? fixed_point(w) : 0;
    }
};

__device__ inline void top_k(Candidates &row, int k, Held &held) {
    if (k < 1 || k >= row.columns) return;
    row.kth = search(
        held, row.columns, [&](int i) { return Item{ordered(row.cooled(i)), 1}; },
        [&](int part) { return ordered(row.highest - distance(part)); },
        ordered(row.highest) + 1, k);
}

// Drops the least likely as long as they sum up to no more than 1 − p.
__device__ inline void top_p(Candidates &row, float p, Held &held) {
    u64 total[1] = {0};
    for (int i = threadIdx.x; i < row.columns; i += SAMPLE_THREADS)
        total[0] += fixed_point(row.weight(i));
    block_totals(total);
    double limit = (1.0 - (double)p) * (double)total[0];
    u64 wanted = limit < (double)total[0] ? total[0] - (u64)limit : 0;
    // The likeliest always stays; what is zero is never kept.
    if (wanted == 0) wanted = 1;
    uint32_t cut = search(
        held, row.columns,
        [&](int i) {
            float w = row.weight(i);
            u64 amount = fixed_point(w);
            return Item{amount ? __float_as_uint(w) : 0, amount};
        },
        [&](int part) { return __float_as_uint(expf(-distance(part))); },
        __float_as_uint(1.0f) + 1, wanted);
    row.cut = fmaxf(row.cut, __uint_as_float(cut));
}

// Inverse of the cumulative distribution at `u`; `otherwise` where nothing can
// be drawn. Each warp adds up a segment, and the one in whose segment the draw
// falls walks through it.
__device__ inline uint32_t draw(const Candidates &row, double u, uint32_t otherwise) {
    __shared__ u64 segments[SAMPLE_WARPS];
    __shared__ uint32_t drawn;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int length = (row.columns + SAMPLE_THREADS - 1) / SAMPLE_THREADS * WARP;
    int start = warp * length;
    u64 sum = 0;
    for (int i = lane; i < length; i += WARP) sum += row.kept(start + i);
    sum = warp_sum(sum);
    if (lane == 0) segments[warp] = sum;
    if (threadIdx.x == 0) drawn = otherwise;
    __syncthreads();
    u64 total = 0, before = 0;
    for (int i = 0; i < SAMPLE_WARPS; i++) {
        if (i == warp) before = total;
        total += segments[i];
    }
    if (total == 0) return otherwise;
    u64 left = min((u64)(u * (double)total), total - 1);
    if (left >= before && left - before < sum) {
        left -= before;
        // Several loads at a time.
        const int most = 8;
        bool found = false;
        for (int first = start; !found; first += most * WARP) {
            u64 mine[most];
#pragma unroll
            for (int j = 0; j < most; j++) mine[j] = row.kept(first + j * WARP + lane);
#pragma unroll
            for (int j = 0; j < most; j++) {
                u64 of_warp = warp_sum(mine[j]);
                if (found) continue;
                if (left >= of_warp) {
                    left -= of_warp;
                    continue;
                }
                found = true;
                for (int other = 0; other < WARP; other++) {
                    u64 theirs = __shfl_sync(ALL_LANES, mine[j], other);
                    if (left < theirs) {
                        if (lane == 0) drawn = first + j * WARP + other;
                        break;
                    }
                    left -= theirs;
                }
            }
        }
    }
    __syncthreads();
    return drawn;
}

// picked [rows], of logits [rows, vocab] and picks [rows]; a block for a row.
// Rows that are wanted whole are left alone.
__device__ inline void pick_token(Picked *picked, const float *logits, const Pick *picks,
                                  int vocab) {
    __shared__ Held held;
    after_previous();
    const Pick pick = picks[blockIdx.x];
    if (pick.kind == WHOLE_ROW) return;
    const float *row = logits + (size_t)blockIdx.x * vocab;
    // The first of the largest, and the largest of all columns.
    u64 best = 0;
    uint32_t largest = 0;
    for (int i = threadIdx.x; i < vocab; i += SAMPLE_THREADS) {
        uint32_t number = ordered(row[i]);
        u64 candidate = (u64)number << 32 | ~(uint32_t)i;
        if (i < pick.columns && candidate > best) best = candidate;
        if (number > largest) largest = number;
    }
    best = block_max(best);
    uint32_t likeliest = best ? ~(uint32_t)best : 0;
    float highest = from_ordered((uint32_t)(best >> 32));
    float shift = from_ordered((uint32_t)block_max(largest));
    u64 total[1] = {0};
    for (int i = threadIdx.x; i < vocab; i += SAMPLE_THREADS)
        total[0] += fixed_point(expf(row[i] - shift));
    block_totals(total);
    float log_total = shift + logf((float)from_fixed_point(total[0]));

    uint32_t id = likeliest;
    Candidates candidates{row, pick.columns, pick.temperature, highest / pick.temperature};
    candidates.cut = pick.min_p;
    if (pick.kind == DRAW) {
        top_k(candidates, pick.top_k, held);
        if (pick.top_p < 1.0f) top_p(candidates, pick.top_p, held);
        id = draw(candidates, pick.u, likeliest);
    }
    if (threadIdx.x == 0) picked[blockIdx.x] = Picked{id, row[id] - log_total};
}
