// The choice of a row's next token, by the definitions of src/engine/sampling:
// temperature and top-k look at logits; a token's weight is e^(logit - highest)
// of what is left, top-p and min-p keep the tokens from some weight on, and the
// draw inverts the cumulative distribution in the order of ids.
#pragma once

#include "scan.cuh"

struct Picked {
    uint32_t id;
    float logprob;
};

// Parts into which a search divides a range of keys in each round.
#define PARTS 8
// Keys that shared memory holds.
#define HELD 4096
// Columns that are drawn from as one at first, and how many of these there are
// at most.
#define SPAN (AT_ONCE * WARP)
#define MOST_SPANS 2048

// f(i, row[i]) for a thread's share of the columns.
template <class F> __device__ inline void for_each(const float *row, int columns, F f) {
    for (int first = threadIdx.x; first < columns; first += AT_ONCE * SAMPLE_THREADS) {
        float values[AT_ONCE];
        load_columns<SAMPLE_THREADS>(values, row, first, columns);
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) {
            int i = first + j * SAMPLE_THREADS;
            if (i < columns) f(i, values[j]);
        }
    }
}

// What may be drawn of a row.
struct Candidates {
    const float *logits;
    int columns;
    float temperature;
    // The highest logit, after the temperature.
    float highest;
    // The key from which on they are kept.
    uint32_t least = 0;
    // The weight from which on they are.
    float cut = 0.0f;

    // The order of logits after the temperature.
    __device__ uint32_t key(float logit) const { return ordered(logit / temperature); }
    // All keys are below.
    __device__ uint32_t end() const { return ordered(highest) + 1; }

    // Logits below have smaller keys, which is sooner seen than their keys.
    __device__ float floor_of(uint32_t key) const {
        float floor = from_ordered(key) * temperature;
        return floor - (fabsf(floor) * 1e-6f + 1e-37f);
    }

    __device__ float weight(uint32_t key) const { return expf(from_ordered(key) - highest); }

    // Of what is no number, nothing.
    __device__ u64 kept(float logit, float floor) const {
        if (logit < floor) return 0;
        uint32_t of_logit = key(logit);
        float w = weight(of_logit);
        return of_logit >= least && w >= cut ? fixed_point(w) : 0;
    }
};

// A row's keys from `low` on and below `end`, in any order, in shared memory.
struct Held {
    uint32_t *keys;
    int *counter;
    int count = 0;
    uint32_t low = 0, end = 0;

    __device__ bool has(uint32_t from, uint32_t to) const { return low <= from && to <= end; }

    // Holds these if there is room, else none.
    __device__ void take(const Candidates &row, uint32_t from, uint32_t to) {
        float floor = row.floor_of(from);
        if (threadIdx.x == 0) *counter = 0;
        __syncthreads();
        for_each(row.logits, row.columns, [&](int, float logit) {
            if (logit < floor) return;
            uint32_t key = row.key(logit);
            if (key < from || key >= to) return;
            int at = atomicAdd(counter, 1);
            if (at < HELD) keys[at] = key;
        });
        __syncthreads();
        count = *counter;
        low = from, end = count <= HELD ? to : from;
    }
};

// How far below the highest logit the parts of a first round among all keys
// begin: they are far from evenly spread, and most of them of no interest.
__device__ inline float distance(int part) { return (float)(1 << (PARTS - 1 - part)) * 0.5f; }

// A key, `low` or above, from which on, up to `end`, there are as many as wanted
// or, if `WEIGHED`, their weights sum up to that, and to `more` more at most:
// where that can't be, the largest key of which the former is true. What is wanted
// is asked of the sum of all.
template <bool WEIGHED, class F>
__device__ uint32_t search(const Candidates &row, Held &held, uint32_t low, uint32_t end,
                           F wanted_of, u64 more = 0) {
    bool all = low == 0;
    u64 above = 0, wanted = 0;
    for (bool first = true; end - low > 1; first = false) {
        bool of_held = held.has(low, end);
        uint32_t bounds[PARTS];
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            bounds[i] = low + (uint32_t)((u64)(end - low) * i / PARTS);
            if (first && all && i > 0) bounds[i] = ordered(row.highest - distance(i));
        }
        // How many there are from each bound on and, weighed, how much.
        uint32_t counts[PARTS] = {};
        u64 sums[WEIGHED ? PARTS : 1] = {};
        auto tally = [&](uint32_t key) {
            if (key >= end) return;
            u64 weight = WEIGHED ? fixed_point(row.weight(key)) : 0;
#pragma unroll
            for (int i = 0; i < PARTS; i++) {
                if (key < bounds[i]) break;
                counts[i]++;
                if (WEIGHED) sums[i] += weight;
            }
        };
        if (of_held)
            for (int i = threadIdx.x; i < held.count; i += SAMPLE_THREADS) tally(held.keys[i]);
        else
            for_each(row.logits, row.columns, [&](int, float logit) { tally(row.key(logit)); });
        // Amounts, then numbers, which may be the same.
        const int numbers = WEIGHED ? PARTS : 0;
        u64 totals[numbers + PARTS];
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            if (WEIGHED) totals[i] = sums[i];
            totals[numbers + i] = counts[i];
        }
        block_totals(totals);
        if (first) wanted = wanted_of(totals[0]);
        // The last part from which on there is enough.
        u64 above_part = above, left = 0, from_low = 0;
        bool found = false;
#pragma unroll
        for (int i = PARTS - 1; i >= 0; i--) {
            if (found) continue;
            found = i == 0 || above + totals[i] >= wanted;
            if (found) {
                low = bounds[i];
                from_low = above + totals[i];
                left = totals[numbers + i] - left;
            } else {
                end = bounds[i];
                above_part = above + totals[i];
                left = totals[numbers + i];
            }
        }
        above = above_part;
        if (from_low <= wanted + more) break;
        if (left <= HELD && end - low > 1 && !held.has(low, end)) held.take(row, low, end);
    }
    return low;
}

// Keeps the k largest and those equal to the last of them.
__device__ inline void top_k(Candidates &row, int k, Held &held) {
    if (k < 1 || k >= row.columns) return;
    auto wanted = [=](u64) { return (u64)k; };
    uint32_t low = 0, end = row.end();
    const int some = SAMPLE_THREADS / 8;
    if (k <= SAMPLE_THREADS - 2 * some) {
        // Of the threads' largest the k-th or one a little smaller: there are few
        // more that are as large, and those are held. Each looks at its own until
        // then.
        uint32_t largest = 0;
        for_each(row.logits, row.columns,
                 [&](int, float logit) { largest = max(largest, ordered(logit)); });
        held.keys[threadIdx.x] = row.key(from_ordered(largest));
        held.count = SAMPLE_THREADS, held.low = 0, held.end = end;
        low = search<false>(row, held, low, end, wanted, some);
        held.take(row, low, end);
    }
    row.least = search<false>(row, held, low, end, wanted);
}

// Drops the least likely as long as they sum up to no more than 1 − p.
__device__ inline void top_p(Candidates &row, float p, Held &held) {
    uint32_t cut = search<true>(row, held, row.least, row.end(), [=](u64 total) {
        double limit = (1.0 - (double)p) * (double)total;
        u64 wanted = limit < (double)total ? total - (u64)limit : 0;
        // The likeliest always stays; what is zero is never kept.
        return wanted == 0 ? 1 : wanted;
    });
    row.cut = fmaxf(row.cut, row.weight(cut));
}

// What a lane has before it of the lanes' values.
__device__ inline u64 warp_before(u64 v) {
    int lane = threadIdx.x % WARP;
    u64 sum = v;
#pragma unroll
    for (int step = 1; step < WARP; step *= 2) {
        u64 theirs = __shfl_sync(ALL_LANES, sum, max(lane - step, 0));
        if (lane >= step) sum += theirs;
    }
    return sum - v;
}

// Inverse of the cumulative distribution at `u`; `otherwise` where nothing can
// be drawn. Warps add up spans of columns, with room for `sums` of them where
// keys were; the first finds the one in which the draw falls, and the column.
__device__ inline uint32_t draw(const Candidates &row, double u, uint32_t otherwise, u64 *sums) {
    __shared__ uint32_t drawn;
    __shared__ int found_span;
    __shared__ u64 found_left;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int spans = (row.columns + SPAN - 1) / SPAN;
    float floor = row.floor_of(row.least);
    auto weights_of = [&](int span, u64 (&weights)[AT_ONCE]) {
        float logits[AT_ONCE];
        load_columns<WARP>(logits, row.logits, span * SPAN + lane, row.columns);
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) weights[j] = row.kept(logits[j], floor);
    };
    for (int span = warp; span < spans; span += SAMPLE_WARPS) {
        u64 weights[AT_ONCE], sum = 0;
        weights_of(span, weights);
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) sum += weights[j];
        sum = warp_sum(sum);
        if (lane == 0) sums[span] = sum;
    }
    if (threadIdx.x == 0) drawn = otherwise, found_span = -1;
    __syncthreads();
    if (warp == 0) {
        // A lane has some spans beside each other.
        int each = (spans + WARP - 1) / WARP;
        int start = min(spans, lane * each), stop = min(spans, start + each);
        u64 sum = 0;
        for (int span = start; span < stop; span++) sum += sums[span];
        u64 total = warp_sum(sum), before = warp_before(sum);
        u64 left = min((u64)(u * (double)total), total - 1);
        if (total > 0 && left >= before && left - before < sum) {
            left -= before;
            int span = start;
            while (left >= sums[span]) left -= sums[span++];
            found_span = span, found_left = left;
        }
    }
    __syncthreads();
    if (warp == 0 && found_span >= 0) {
        u64 weights[AT_ONCE], left = found_left;
        weights_of(found_span, weights);
        bool found = false;
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) {
            u64 total = warp_sum(weights[j]), before = warp_before(weights[j]);
            if (!found && left >= before && left - before < weights[j])
                drawn = found_span * SPAN + j * WARP + lane;
            found = found || left < total;
            left -= total;
        }
    }
    __syncthreads();
    return drawn;
}

// picked [rows], of logits [rows, vocab], what was found in their slices, and
// picks [rows]; a block for a row. Rows that are wanted whole are left alone.
__device__ inline void pick_token(Picked *picked, const float *logits, const Slice *slices,
                                  const Pick *picks, int vocab) {
    // Keys, and later sums of spans.
    static_assert(HELD * sizeof(uint32_t) == MOST_SPANS * sizeof(u64), "room for both");
    alignas(8) __shared__ uint32_t room[HELD];
    __shared__ int counter;
    // The batch was there before any kernel.
    const Pick pick = of_batch(picks + blockIdx.x);
    after_previous();
    if (pick.kind == WHOLE_ROW) return;
    const float *row = logits + (size_t)blockIdx.x * vocab;
    int count = slices_of(vocab);
    Scanned scanned = join_slices(slices + (size_t)blockIdx.x * count, count);
    uint32_t id = scanned.likeliest;
    if (pick.kind == DRAW) {
        Candidates candidates{row, pick.columns, pick.temperature,
                              scanned.highest / pick.temperature};
        candidates.cut = pick.min_p;
        Held held{room, &counter};
        top_k(candidates, pick.top_k, held);
        if (pick.top_p < 1.0f) top_p(candidates, pick.top_p, held);
        id = draw(candidates, pick.u, id, reinterpret_cast<u64 *>(room));
    }
    if (threadIdx.x == 0) picked[blockIdx.x] = Picked{id, row[id] - scanned.log_total};
}
