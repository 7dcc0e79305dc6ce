// What the kernels need of the device: number formats, 16-byte loads, copies
// into shared memory beside the arithmetic, and the tensor cores' product.
// tests/cuda/emulated.h has the same for processors.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

typedef __nv_bfloat16 bf16;
typedef __half f16;

__device__ inline float to_float(float v) { return v; }
__device__ inline float to_float(bf16 v) { return __bfloat162float(v); }
__device__ inline float to_float(f16 v) { return __half2float(v); }

template <class T> __device__ inline T from_float(float v);
template <> __device__ inline float from_float<float>(float v) { return v; }
template <> __device__ inline bf16 from_float<bf16>(float v) { return __float2bfloat16(v); }
// Too large a number becomes the largest: an infinity that someone's weight of
// 0 meets would be NaN.
__device__ inline float for_f16(float v) { return fminf(fmaxf(v, -65504.0f), 65504.0f); }
template <> __device__ inline f16 from_float<f16>(float v) { return __float2half(for_f16(v)); }

// Two numbers as one word, the first in its lower half.
template <class T> __device__ inline uint32_t two_of(float first, float second);
template <> __device__ inline uint32_t two_of<bf16>(float first, float second) {
    __nv_bfloat162 two = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<uint32_t *>(&two);
}
template <> __device__ inline uint32_t two_of<f16>(float first, float second) {
    __half2 two = __floats2half2_rn(for_f16(first), for_f16(second));
    return *reinterpret_cast<uint32_t *>(&two);
}

// To an address that is aligned for both.
template <class T> __device__ inline void store_two(T *to, float first, float second) {
    *reinterpret_cast<uint32_t *>(to) = two_of<T>(first, second);
}
__device__ inline void store_two(float *to, float first, float second) {
    *reinterpret_cast<float2 *>(to) = make_float2(first, second);
}

// Each thread of a kernel comes through here before it touches what the kernels
// before it read or write: it may have been launched while they run (CUDA's
// "programmatic dependent launch"). Until here, weights and the batch can be
// read. From here on the next kernel may be launched, and comes as far as here.
__device__ inline void after_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\n" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

// What a batch says, for a kernel that reads it before `after_previous`. Each
// step's batch lies where the last one's did: the multiprocessor's first cache
// may still have that, so it is not asked.
template <class V> __device__ inline V of_batch(const V *at) {
    union {
        uint32_t words[sizeof(V) / 4];
        V value;
    };
#pragma unroll
    for (int i = 0; i < sizeof(V) / 4; i++)
        words[i] = __ldcg(reinterpret_cast<const uint32_t *>(at) + i);
    return value;
}

// Asks for 128 bytes around an address, which are soon read.
__device__ inline void prefetch(const void *at) {
    asm volatile("prefetch.global.L2 [%0];\n" ::"l"(at));
}

// Starts copying 16 bytes into shared memory, or clears them.
__device__ inline void copy_async(void *to, const void *from, bool valid) {
    uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared), "l"(from),
                 "r"(bytes));
}

__device__ inline void copies_end_group() { asm volatile("cp.async.commit_group;\n" ::); }

// Waits until at most `pending` groups of this thread's copies are under way.
template <int pending> __device__ inline void copies_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(pending));
}

// sums [16, 8] += a [16, 16] · b [16, 8] by a warp, sums in f32; who holds
// what: PTX ISA, "Matrix Fragments for mma.m16n8k16".
template <class T>
__device__ void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

#define MULTIPLY(T)                                                                                \
    template <>                                                                                    \
    __device__ inline void multiply<T>(float (&sums)[4], const uint32_t (&a)[4],                   \
                                       const uint32_t (&b)[2]) {                                   \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." #T "." #T ".f32 "                    \
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"           \
                     : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                  \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));          \
    }

MULTIPLY(bf16)
MULTIPLY(f16)
