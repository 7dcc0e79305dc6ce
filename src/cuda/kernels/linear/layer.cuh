// A linear layer, y = x · w transposed + bias: x [rows, k], w [n, k]; what becomes
// of the sums is the same in every kernel.
#pragma once

#include "../norm.cuh"

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
