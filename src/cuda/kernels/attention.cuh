// Causal attention over a paged cache. With tensor cores, a warp has 16 rows
// and goes through the positions in SEGMENTs, each in blocks with a running
// highest score (Dao et al., "FlashAttention", 2022); the segments' results are
// merged one after another. So the bits of a row are the same whether several
// warps share its segments or one has them all.
#pragma once

#include "common.cuh"

// The cache of a layer is [blocks, count], for each block and head the keys
// [BLOCK, padded] and then the values [padded, BLOCK]: tensor cores take both
// in loads of 16 bytes. Paddings are zero.
struct Heads {
    int count, dim, padded;
    float scale;
};

template <class T>
__device__ inline T *keys_of(T *cache, size_t block, int head, const Heads &heads) {
    return cache + (block * heads.count + head) * 2 * BLOCK * heads.padded;
}

template <class T> __device__ inline T *values_of(T *keys, const Heads &heads) {
    return keys + BLOCK * heads.padded;
}

// The query of a row of qkv [rows, 3·width]; its key lies one width further,
// its value two.
template <class T>
__device__ inline const T *query_of(const T *qkv, int row, int head, const Heads &heads,
                                    int stride) {
    return qkv + (size_t)row * stride + head * heads.dim;
}

// Puts the new keys and values into the cache: 32 rows of a head for a block.
template <class T>
__device__ void write_cache(T *cache, const T *qkv, const Rows &rows, int count,
                            const Heads &heads, int stride) {
    after_previous();
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    int first = blockIdx.x * WARP, head = blockIdx.y, width = heads.count * heads.dim;
    for (int i = warp; i < WARP && first + i < count; i += warps) {
        int row = first + i, position = rows.positions[row];
        if (position < 0) continue;
        T *keys = keys_of(cache, table_of(rows, row)[position / BLOCK], head, heads);
        const T *key = query_of(qkv, row, head, heads, stride) + width;
        for (int d = lane; d < heads.dim; d += WARP)
            keys[(size_t)(position % BLOCK) * heads.padded + d] = key[d];
    }
    // A lane for a row: positions that follow each other lie side by side.
    int row = first + lane;
    if (row >= count || rows.positions[row] < 0) return;
    int position = rows.positions[row];
    T *keys = keys_of(cache, table_of(rows, row)[position / BLOCK], head, heads);
    T *values = values_of(keys, heads) + position % BLOCK;
    const T *value = query_of(qkv, row, head, heads, stride) + 2 * width;
    for (int d = 8 * warp; d < heads.dim; d += 8 * warps) {
        alignas(16) T of_row[8];
        int numbers = min(8, heads.dim - d);
        if (sizeof(T) == 2 && heads.dim % 8 == 0)
            *reinterpret_cast<Eight *>(of_row) = eight(value + d, true);
        else
            for (int i = 0; i < 8; i++) of_row[i] = value[d + min(i, numbers - 1)];
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < numbers) values[(size_t)(d + i) * BLOCK] = of_row[i];
    }
}

// The same for a row and head by a block of threads.
template <class T>
__device__ inline void write_row(T *cache, const T *query, const uint32_t *table, int position,
                                 int head, const Heads &heads) {
    T *keys = keys_of(cache, table[position / BLOCK], head, heads);
    int slot = position % BLOCK, width = heads.count * heads.dim;
    for (int d = threadIdx.x; d < heads.dim; d += blockDim.x) {
        keys[(size_t)slot * heads.padded + d] = query[width + d];
        values_of(keys, heads)[(size_t)d * BLOCK + slot] = query[2 * width + d];
    }
}

// Positions that are merged at a time.
#define SEGMENT 64
// Numbers of a head that are summed at a time.
#define SLICE 64

// What a warp has of 16 rows and a slice of a head: a lane, rows group and
// group + 8, and of each 8 numbers 2q and 2q + 1.
struct Attended {
    float tops[2], weights[2];
    float sums[SLICE / 8][4];
};

// How two parts of the positions are weighed against each other.
struct Scales {
    float top, before, next;
};

__device__ inline Scales scales_of(float top, float next) {
    float higher = fmaxf(top, next);
    return Scales{higher, exp2f(top - higher), exp2f(next - higher)};
}

__device__ inline float merged(const Scales &scales, float before, float next) {
    return fmaf(next, scales.next, before * scales.before);
}

// Of the four lanes of a row.
template <class F> __device__ inline float row_fold(float v, F join) {
    v = join(v, __shfl_xor_sync(ALL_LANES, v, 1));
    return join(v, __shfl_xor_sync(ALL_LANES, v, 2));
}

// What of eight positions from `first` on is not after `last`; the rest is
// whatever someone else left there.
template <class T> __device__ inline Eight until(Eight values, int first, int last) {
    for (int i = 0; i < 4; i++) {
        if (first + 2 * i > last) values.pairs[i] = 0;
        else if (first + 2 * i + 1 > last) values.pairs[i] &= 0xffffu;
    }
    return values;
}

// A segment: positions `start` to `last` at most, of which each row sees those
// up to its own. query(step, half) is a lane's part of its rows; those of the
// halves from `halves` on are of no interest.
template <class T, int halves, class Q>
__device__ inline Attended attend(Q query, const T *cache, const uint32_t *table, int head,
                                  const Heads &heads, int slice, int start, int last,
                                  const int (&positions)[2]) {
    int lane = threadIdx.x % WARP, group = lane / 4, q = lane % 4;
    // Scores times this are exponents of 2.
    float scale = heads.scale * 1.44269504088896341f;
    Attended state{{-INFINITY, -INFINITY}, {0.0f, 0.0f}, {}};
#pragma unroll 1
    for (int first = start; first < min(start + SEGMENT, last + 1); first += BLOCK) {
        const T *keys = keys_of(cache, table[first / BLOCK], head, heads);
        const T *values = values_of(keys, heads) + slice * BLOCK;
        // Of 32 positions, so that a lane has 8q to 8q + 7: those are its
        // inputs when the values are summed.
        float scores[4][4] = {};
#pragma unroll 2
        for (int step = 0; step < heads.padded / STEP; step++) {
            Eight upper = query(step, 0), lower = query(step, 1);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int slot = group / 2 * 8 + 2 * j + group % 2;
                const T *key = keys + (slot * heads.padded + step * STEP + 8 * q);
                multiply_step<T>(scores[j], upper, lower, eight(key, true));
            }
        }
#pragma unroll
        for (int half = 0; half < halves; half++) {
            float top = -INFINITY;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float &score = scores[i / 2][2 * half + i % 2];
                score = first + 8 * q + i <= positions[half] ? score * scale : -INFINITY;
                top = fmaxf(top, score);
            }
            top = row_fold(top, [](float a, float b) { return fmaxf(a, b); });
            top = fmaxf(top, state.tops[half]);
            float before = exp2f(state.tops[half] - top), weight = 0.0f;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float &score = scores[i / 2][2 * half + i % 2];
                score = exp2f(score - top);
                weight += score;
            }
            weight = row_fold(weight, [](float a, float b) { return a + b; });
            state.tops[half] = top;
            state.weights[half] = fmaf(state.weights[half], before, weight);
#pragma unroll
            for (int d = 0; d < SLICE / 8; d++) {
                state.sums[d][2 * half] *= before;
                state.sums[d][2 * half + 1] *= before;
            }
        }
        Eight weights[2] = {};
#pragma unroll
        for (int half = 0; half < halves; half++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                weights[half].pairs[j] =
                    two_of<T>(scores[j][2 * half], scores[j][2 * half + 1]);
        bool whole = first + BLOCK <= last + 1;
#pragma unroll
        for (int d = 0; d < SLICE / 8; d++) {
            Eight column = eight(values + ((8 * d + group) * BLOCK + 8 * q),
                                 slice + 8 * d < heads.padded);
            if (!whole) column = until<T>(column, first + 8 * q, last);
            multiply_step<T>(state.sums[d], weights[0], weights[1], column);
        }
    }
    return state;
}

// Few rows, which wait for what they read: a row and head for a block, whose
// warps share the segments. `list` names the rows, or it is all of them. With
// `writes`, the row's key and value go into the cache first.
#define SEGMENTS 8
template <class T>
__device__ void attention_few(T *out, T *cache, const T *qkv, const Rows &rows,
                              const uint32_t *list, const Heads &heads, int stride, int padded,
                              bool writes) {
    alignas(16) __shared__ T numbers[MOST_HEAD];
    __shared__ float tops[SEGMENTS], weights[SEGMENTS], parts[SEGMENTS][SLICE];
    // The batch was there before any kernel.
    int row = list ? of_batch(list + blockIdx.x) : blockIdx.x, head = blockIdx.y;
    int position = of_batch(rows.positions + row);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    int group = lane / 4, q = lane % 4;
    const uint32_t *table = table_of(rows, row);
    for (int first = warp * SEGMENT; first < min((warp + 1) * SEGMENT, position); first += BLOCK) {
        const T *keys = keys_of(cache, of_batch(table + first / BLOCK), head, heads);
        const int line = 128 / sizeof(T);
        for (int i = lane * line; i < 2 * BLOCK * heads.padded; i += WARP * line)
            prefetch(keys + i);
    }
    after_previous();
    if (position < 0) return;
    const T *of_row = query_of(qkv, row, head, heads, stride);
    for (int d = threadIdx.x; d < heads.padded; d += blockDim.x)
        numbers[d] = d < heads.dim ? of_row[d] : from_float<T>(0.0f);
    if (writes) write_row(cache, of_row, table, position, head, heads);
    __syncthreads();
    // The other rows of the product are zero.
    auto query = [&](int step, int half) {
        return eight(numbers + step * STEP + 8 * q, half == 0 && group == 0);
    };
    const int positions[2] = {position, position};
    for (int slice = 0; slice < heads.padded; slice += SLICE) {
        float top = -INFINITY, weight = 0.0f, sum = 0.0f;
        for (int first = 0; first <= position; first += warps * SEGMENT) {
            int start = first + warp * SEGMENT;
            if (start <= position) {
                Attended state = attend<T, 1>(query, cache, table, head, heads, slice, start,
                                              position, positions);
                if (lane == 0) tops[warp] = state.tops[0], weights[warp] = state.weights[0];
                if (group == 0)
#pragma unroll
                    for (int i = 0; i < SLICE / 4; i++)
                        parts[warp][i / 2 * 8 + 2 * q + i % 2] = state.sums[i / 2][i % 2];
            }
            __syncthreads();
            // A thread for a number.
            if (threadIdx.x < SLICE) {
                int last = min(warps, (position - first) / SEGMENT + 1);
                for (int w = 0; w < last; w++) {
                    Scales scales = scales_of(top, tops[w]);
                    top = scales.top;
                    weight = merged(scales, weight, weights[w]);
                    sum = merged(scales, sum, parts[w][threadIdx.x]);
                }
            }
            __syncthreads();
        }
        int d = slice + threadIdx.x;
        if (threadIdx.x < SLICE && d < heads.dim)
            out[(size_t)row * padded + head * heads.dim + d] = from_float<T>(sum / weight);
    }
}

// Many rows of a sequence: a warp for 16 of them, from a row that `tiles`
// names, and a head.
#define TILE_ROWS 16
#define TILE_WARPS 4
template <class T>
__device__ void attention_many(T *out, const T *cache, const T *qkv, const Rows &rows, int count,
                               const uint32_t *tiles, int tile_count, const Heads &heads,
                               int stride, int padded) {
    // Each lane's part of its rows, for itself.
    __shared__ Eight queries[TILE_WARPS][MOST_HEAD / STEP][2][WARP];
    after_previous();
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, head = blockIdx.y;
    int group = lane / 4, q = lane % 4, tile = blockIdx.x * TILE_WARPS + warp;
    if (tile >= tile_count) return;
    int first_row = tiles[tile];
    uint32_t sequence = rows.sequences[first_row];
    const uint32_t *table = table_of(rows, first_row);
    int positions[2];
    for (int half = 0; half < 2; half++) {
        int row = first_row + group + 8 * half;
        bool is_ours = row < count && rows.sequences[row] == sequence;
        positions[half] = is_ours ? rows.positions[row] : -1;
        const T *of_row = query_of(qkv, is_ours ? row : first_row, head, heads, stride);
        for (int step = 0; step < heads.padded / STEP; step++) {
            int d = step * STEP + 8 * q;
            Eight &query = queries[warp][step][half][lane];
            if (heads.dim % 8 == 0) {
                query = eight(of_row + d, d < heads.dim);
                continue;
            }
            for (int i = 0; i < 4; i++) {
                float of_pair[2];
                for (int e = 0; e < 2; e++) {
                    int at = d + 2 * i + e;
                    of_pair[e] = at < heads.dim ? to_float(of_row[at]) : 0.0f;
                }
                query.pairs[i] = two_of<T>(of_pair[0], of_pair[1]);
            }
        }
    }
    int last = (int)warp_max((float)max(positions[0], positions[1]));
    auto query = [&](int step, int half) { return queries[warp][step][half][lane]; };
    for (int slice = 0; slice < heads.padded; slice += SLICE) {
        Attended all{{-INFINITY, -INFINITY}, {0.0f, 0.0f}, {}};
#pragma unroll 1
        for (int start = 0; start <= last; start += SEGMENT) {
            Attended state =
                attend<T, 2>(query, cache, table, head, heads, slice, start, last, positions);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                if (start > positions[half]) continue;
                Scales scales = scales_of(all.tops[half], state.tops[half]);
                all.tops[half] = scales.top;
                all.weights[half] = merged(scales, all.weights[half], state.weights[half]);
#pragma unroll
                for (int i = 0; i < SLICE / 4; i++) {
                    float &sum = all.sums[i / 2][2 * half + i % 2];
                    sum = merged(scales, sum, state.sums[i / 2][2 * half + i % 2]);
                }
            }
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            if (positions[half] < 0) continue;
            T *to = out + (size_t)(first_row + group + 8 * half) * padded + head * heads.dim;
#pragma unroll
            for (int i = 0; i < SLICE / 8; i++) {
                int d = slice + 8 * i + 2 * q;
                float values[2];
                for (int e = 0; e < 2; e++)
                    values[e] = all.sums[i][2 * half + e] / all.weights[half];
                if (d + 1 < heads.dim && heads.dim % 2 == 0)
                    store_two(to + d, values[0], values[1]);
                else
                    for (int e = 0; e < 2 && d + e < heads.dim; e++)
                        to[d + e] = from_float<T>(values[e]);
            }
        }
    }
}

// How much rows attend to each position up to their own, to be looked at:
// out [count, heads, most] of the rows that `list` names, a warp for each and a
// head.
template <class T>
__device__ void attention_weights(float *out, const T *cache, const T *qkv, const Rows &rows,
                                  const uint32_t *list, const Heads &heads, int stride,
                                  int most) {
    after_previous();
    int row = list[blockIdx.x], head = blockIdx.y, lane = threadIdx.x;
    int position = rows.positions[row];
    const uint32_t *table = table_of(rows, row);
    const T *query = query_of(qkv, row, head, heads, stride);
    float *weights = out + ((size_t)blockIdx.x * heads.count + head) * most;
    float top = -INFINITY, sum = 0.0f;
    for (int p = lane; p <= position; p += WARP) {
        const T *keys = keys_of(cache, table[p / BLOCK], head, heads);
        const T *key = keys + p % BLOCK * heads.padded;
        float score = 0.0f;
        for (int d = 0; d < heads.dim; d++)
            score = fmaf(to_float(query[d]) * heads.scale, to_float(key[d]), score);
        weights[p] = score;
        top = fmaxf(top, score);
    }
    top = warp_max(top);
    for (int p = lane; p <= position; p += WARP) {
        weights[p] = expf(weights[p] - top);
        sum += weights[p];
    }
    sum = warp_sum(sum);
    for (int p = lane; p <= position; p += WARP) weights[p] /= sum;
}

// In f32, without tensor cores: a row and head for a block of 4 warps, each
// with every fourth block of positions, a lane for a position.
#define PLAIN_WARPS 4
// Most numbers of a head that a lane holds.
#define HEAD_PARTS (MOST_HEAD / WARP)
__device__ inline void attention_plain(float *out, float *cache, const float *qkv,
                                       const Rows &rows, const Heads &heads, int stride,
                                       int padded, bool writes) {
    __shared__ float query[MOST_HEAD];
    __shared__ float tops[PLAIN_WARPS], weights[PLAIN_WARPS];
    __shared__ float parts[PLAIN_WARPS][MOST_HEAD];
    after_previous();
    int row = blockIdx.x, head = blockIdx.y, position = rows.positions[row];
    if (position < 0) return;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const uint32_t *table = table_of(rows, row);
    const float *of_row = query_of(qkv, row, head, heads, stride);
    for (int d = threadIdx.x; d < heads.padded; d += blockDim.x)
        query[d] = d < heads.dim ? of_row[d] * heads.scale : 0.0f;
    if (writes) write_row(cache, of_row, table, position, head, heads);
    __syncthreads();

    float top = -INFINITY, weight = 0.0f, sums[HEAD_PARTS];
    for (int i = 0; i < HEAD_PARTS; i++) sums[i] = 0.0f;
    for (int first = warp * BLOCK; first <= position; first += PLAIN_WARPS * BLOCK) {
        const float *keys = keys_of(cache, table[first / BLOCK], head, heads);
        const float *values = values_of(keys, heads);
        bool seen = first + lane <= position;
        float score = 0.0f;
        for (int d = 0; seen && d < heads.padded; d += 4) {
            Four key = four(keys + (size_t)lane * heads.padded + d, true);
            for (int c = 0; c < 4; c++) score = fmaf(query[d + c], key.values[c], score);
        }
        float higher = fmaxf(top, warp_max(seen ? score : -INFINITY));
        float p = seen ? expf(score - higher) : 0.0f;
        float before = expf(top - higher);
        top = higher;
        weight = fmaf(weight, before, warp_sum(p));
        int count = min(BLOCK, position + 1 - first);
        for (int i = 0; i < HEAD_PARTS; i++) sums[i] *= before;
        for (int slot = 0; slot < count; slot += 4) {
            float of_slots[4];
            for (int c = 0; c < 4; c++) of_slots[c] = __shfl_sync(ALL_LANES, p, slot + c);
            for (int i = 0; i < HEAD_PARTS; i++) {
                if (i * WARP >= heads.padded) break;
                Four value = four(values + (size_t)(i * WARP + lane) * BLOCK + slot, true);
                for (int c = 0; c < 4; c++)
                    if (slot + c < count) sums[i] = fmaf(of_slots[c], value.values[c], sums[i]);
            }
        }
    }
    if (lane == 0) tops[warp] = top, weights[warp] = weight;
    for (int i = 0; i < HEAD_PARTS; i++) parts[warp][i * WARP + lane] = sums[i];
    __syncthreads();
    float highest = tops[0], total = 0.0f;
    for (int i = 1; i < PLAIN_WARPS; i++) highest = fmaxf(highest, tops[i]);
    for (int i = 0; i < PLAIN_WARPS; i++) total += weights[i] * expf(tops[i] - highest);
    for (int d = threadIdx.x; d < heads.dim; d += blockDim.x) {
        float sum = 0.0f;
        for (int i = 0; i < PLAIN_WARPS; i++)
            sum = fmaf(parts[i][d], expf(tops[i] - highest), sum);
        out[(size_t)row * padded + head * heads.dim + d] = from_float<float>(sum / total);
    }
}
