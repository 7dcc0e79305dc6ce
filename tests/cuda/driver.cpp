// A CUDA driver without a GPU: memory is the processor's, a launch runs our
// kernels, compiled from the same source, block by block. With it the whole of
// `--device cuda` can be tested on any machine; of speed it says nothing.
//
// `run.sh` builds it as libcuda.so.1. Only what the engine calls is here.

#define GPT2_EMULATED
#include "../../src/cuda/kernels/kernels.cu"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

// ---- The threads of a block, as fibers.

Uint3 threadIdx, blockIdx, blockDim, gridDim;
unsigned char (*warp_board)[64];

namespace {

enum State { READY, AT_BLOCK, AT_WARP, DONE };
const size_t STACK = 64 << 10;
const int MOST_THREADS = 1024;

struct Fiber {
    void *stack_pointer;
    State state;
};

Fiber fibers[MOST_THREADS];
unsigned char *stacks;
unsigned char boards[MOST_THREADS / 32][32][64];
void *main_stack_pointer;
int current;
const std::function<void()> *body;

// Saves what the called keeps, changes stacks, restores (System V, x86-64).
extern "C" void change_stack(void **from, void *to);
asm(R"(
.globl change_stack
.hidden change_stack
change_stack:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
)");

void to_main(State state) {
    fibers[current].state = state;
    change_stack(&fibers[current].stack_pointer, main_stack_pointer);
}

void fiber_main() {
    (*body)();
    to_main(DONE);
    abort();
}

void start(int thread) {
    void **top = (void **)(stacks + (thread + 1) * STACK);
    // The return address and six registers; aligned as after a call.
    top -= 2;
    *top = (void *)fiber_main;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    fibers[thread] = {top, READY};
}

void resume(int thread) {
    current = thread;
    threadIdx = {(unsigned)thread, 0, 0};
    warp_board = boards[thread / 32];
    change_stack(&main_stack_pointer, fibers[thread].stack_pointer);
}

// Lets those of threads first to last go on that wait for each other.
bool release(int first, int last, State waiting) {
    int count = 0;
    for (int i = first; i < last; i++) {
        if (fibers[i].state == waiting) count++;
        else if (fibers[i].state != DONE) return false;
    }
    for (int i = first; i < last; i++)
        if (fibers[i].state == waiting) fibers[i].state = READY;
    return count > 0;
}

// CUDA_EMULATED_ORDER=backward lets the last thread run first: a missing
// barrier shows in one order or the other.
bool backward() {
    static const bool set = [] {
        const char *order = getenv("CUDA_EMULATED_ORDER");
        return order && !strcmp(order, "backward");
    }();
    return set;
}

void run_block(int threads) {
    for (int i = 0; i < threads; i++) start(i);
    for (bool progress = true; progress;) {
        progress = false;
        for (int i = 0; i < threads; i++) {
            int thread = backward() ? threads - 1 - i : i;
            if (fibers[thread].state == READY) resume(thread), progress = true;
        }
        for (int warp = 0; warp < threads; warp += 32)
            progress |= release(warp, min(threads, warp + 32), AT_WARP);
        progress |= release(0, threads, AT_BLOCK);
    }
    for (int i = 0; i < threads; i++) {
        if (fibers[i].state == DONE) continue;
        fprintf(stderr, "emulated CUDA: thread %d waits for others that never come\n", i);
        abort();
    }
}

} // namespace

void __syncthreads() { to_main(AT_BLOCK); }
void wait_for_warp() { to_main(AT_WARP); }

// ---- The kernels by name. Those that measure a GPU measure nothing here.

namespace {

typedef std::function<std::function<void()>(void **)> Binder;

// Copies the parameters, as a launch does.
template <class... P> Binder binder(void (*kernel)(P...)) {
    return [kernel](void **parameters) {
        auto bind = [&]<size_t... i>(std::index_sequence<i...>) {
            std::tuple<P...> values(*(P *)parameters[i]...);
            return [kernel, values] { std::apply(kernel, values); };
        };
        return std::function<void()>(bind(std::index_sequence_for<P...>()));
    };
}

#define ENTRY(name) {#name, binder(name)}
#define FOR_ALL(name)                                                                              \
    ENTRY(embed_##name), ENTRY(layer_norm_##name), ENTRY(write_cache_##name),                      \
        ENTRY(attention_weights_##name)
#define FOR_TENSORS(name)                                                                          \
    ENTRY(linear_few_##name), ENTRY(linear_normed_##name), ENTRY(linear_some_##name),              \
        ENTRY(linear_many_##name), ENTRY(attention_few_##name), ENTRY(attention_many_##name)
std::map<std::string, Binder> &kernels = *new std::map<std::string, Binder>{
    {"read_through_u8", binder(+[](uint32_t *, const Eight *, size_t) {})},
    {"multiply_add_f32", binder(+[](float *, int) {})},
    {"multiply_add_bf16", binder(+[](float *, int) {})},
    {"multiply_add_f16", binder(+[](float *, int) {})},
    FOR_ALL(f32),          FOR_ALL(bf16),         FOR_ALL(f16),         FOR_TENSORS(bf16),
    FOR_TENSORS(f16),      ENTRY(linear_few_f32), ENTRY(linear_many_f32), ENTRY(attention_f32),
    ENTRY(sample),
};

std::mutex &mutex = *new std::mutex;
typedef std::vector<std::function<void()>> Graph;
struct Stream {
    // What is being recorded, instead of run.
    Graph *capturing;
};

// CUDA_EMULATED_LAZY lets all work wait until somebody waits for it: what is
// read too early is old then. Without, it is done when it is asked for, before
// anything that should have come first.
bool lazy() {
    static const bool set = getenv("CUDA_EMULATED_LAZY");
    return set;
}

// CUDA_EMULATED_IDLE lets kernels compute nothing: what is left is the host's
// work, to be timed.
bool idle() {
    static const bool set = getenv("CUDA_EMULATED_IDLE");
    return set;
}

// What waits, in the order of all streams.
Graph &waiting = *new Graph;

int enqueue(void *stream, std::function<void()> work) {
    std::lock_guard<std::mutex> lock(mutex);
    Graph *capturing = ((Stream *)stream)->capturing;
    if (capturing) capturing->push_back(work);
    else if (lazy()) waiting.push_back(work);
    else work();
    return 0;
}

int do_all() {
    std::lock_guard<std::mutex> lock(mutex);
    for (auto &work : waiting) work();
    waiting.clear();
    return 0;
}

// Memory of the host that is locked in its place.
std::map<char *, size_t> &pinned = *new std::map<char *, size_t>;

bool is_pinned(const void *memory) {
    std::lock_guard<std::mutex> lock(mutex);
    auto after = pinned.upper_bound((char *)memory);
    if (after == pinned.begin()) return false;
    auto [start, bytes] = *--after;
    return (char *)memory < start + bytes;
}

std::map<void *, size_t> &sizes() {
    // Never destroyed: threads may outlive main.
    static auto *all = new std::map<void *, size_t>;
    return *all;
}

} // namespace

// ---- The driver's interface; 0 is success.

#define API extern "C" __attribute__((visibility("default"))) int
typedef unsigned long long Pointer;
const int INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101,
          NOT_FOUND = 500;

API cuInit(unsigned) { return getenv("CUDA_EMULATED_NO_DEVICE") ? NO_DEVICE : 0; }
API cuDriverGetVersion(int *version) { return *version = 13000, 0; }
API cuDeviceGetCount(int *count) { return *count = 1, 0; }
API cuDeviceGet(int *device, int ordinal) {
    return *device = ordinal, ordinal == 0 ? 0 : INVALID_DEVICE;
}
API cuDeviceGetName(char *name, int length, int) {
    return snprintf(name, length, "emulated"), 0;
}
API cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = 4ull << 30, 0; }
API cuMemGetInfo_v2(size_t *free, size_t *total) { return *free = *total = 4ull << 30, 0; }
API cuDeviceGetAttribute(int *value, int attribute, int) {
    // 16: multiprocessors, so few that small shapes go through all kernels. 75
    // and 76: the compute capability.
    return *value = attribute == 16 ? 4 : attribute == 75 ? 9 : 0, 0;
}
API cuDevicePrimaryCtxRetain(void **context, int) { return *context = &mutex, 0; }
API cuDevicePrimaryCtxRelease_v2(int) { return 0; }
API cuCtxSetCurrent(void *) { return 0; }
API cuCtxGetCurrent(void **context) { return *context = &mutex, 0; }
API cuCtxSynchronize() { return do_all(); }
API cuStreamCreate(void **stream, unsigned) { return *stream = new Stream{}, 0; }
API cuStreamDestroy_v2(void *stream) { return delete (Stream *)stream, 0; }
API cuStreamSynchronize(void *) { return do_all(); }
API cuStreamWaitEvent(void *, void *, unsigned) { return 0; }
// One that was never recorded waits for nothing.
API cuEventCreate(void **event, unsigned) { return *event = new bool{false}, 0; }
API cuEventRecord(void *event, void *) { return *(bool *)event = true, 0; }
API cuEventQuery(void *) { return 0; }
API cuEventSynchronize(void *event) { return *(bool *)event ? do_all() : 0; }
API cuEventDestroy_v2(void *event) { return delete (bool *)event, 0; }
API cuGetErrorName(int, const char **name) { return *name = "CUDA_ERROR_EMULATED", 0; }
API cuGetErrorString(int error, const char **text) {
    *text = error == NO_DEVICE        ? "no CUDA-capable device is detected"
            : error == INVALID_DEVICE ? "invalid device ordinal"
            : error == OUT_OF_MEMORY  ? "out of memory"
                                      : "emulated error";
    return 0;
}

// What lies beyond an allocation can't be touched.
API cuMemAlloc_v2(Pointer *pointer, size_t bytes) {
    if (bytes == 0) return INVALID_VALUE;
    size_t page = 4096, used = (bytes + 255) / 256 * 256, whole = (used + page - 1) / page * page;
    char *memory = (char *)mmap(nullptr, whole + page, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return OUT_OF_MEMORY;
    mprotect(memory + whole, page, PROT_NONE);
    char *start = memory + whole - used;
    // Nothing is known of fresh memory: NaN in every format.
    if (bytes < 64 << 20) memset(start, 0xff, used);
    std::lock_guard<std::mutex> lock(mutex);
    sizes()[start] = used;
    return *pointer = (Pointer)start, 0;
}
API cuMemFree_v2(Pointer pointer) {
    do_all();
    std::lock_guard<std::mutex> lock(mutex);
    auto found = sizes().find((void *)pointer);
    if (found == sizes().end()) return INVALID_VALUE;
    size_t page = 4096, whole = (found->second + page - 1) / page * page;
    munmap((char *)found->first + found->second - whole, whole + page);
    sizes().erase(found);
    return 0;
}
API cuMemAllocAsync(Pointer *pointer, size_t bytes, void *) { return cuMemAlloc_v2(pointer, bytes); }
API cuMemFreeAsync(Pointer pointer, void *) { return cuMemFree_v2(pointer); }
API cuMemHostAlloc(void **memory, size_t bytes, unsigned) {
    std::lock_guard<std::mutex> lock(mutex);
    pinned[(char *)(*memory = malloc(bytes))] = bytes;
    return 0;
}
API cuMemFreeHost(void *memory) {
    std::lock_guard<std::mutex> lock(mutex);
    pinned.erase((char *)memory);
    return free(memory), 0;
}
API cuMemsetD8Async(Pointer to, unsigned char value, size_t count, void *stream) {
    return enqueue(stream, [=] { memset((void *)to, value, count); });
}
API cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t bytes, void *stream) {
    if (!lazy() || is_pinned(from))
        return enqueue(stream, [=] { memcpy((void *)to, from, bytes); });
    // The driver's own copy, so that the host's memory is free at once.
    auto copy = std::make_shared<std::string>((const char *)from, bytes);
    return enqueue(stream, [=] { memcpy((void *)to, copy->data(), bytes); });
}
API cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t bytes, void *stream) {
    enqueue(stream, [=] { memcpy(to, (void *)from, bytes); });
    return is_pinned(to) ? 0 : do_all();
}
API cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void *stream) {
    return enqueue(stream, [=] { memcpy((void *)to, (void *)from, bytes); });
}

API cuModuleLoadData(void **module, const void *) { return *module = &kernels, 0; }
API cuModuleUnload(void *) { return 0; }
API cuModuleGetFunction(void **function, void *, const char *name) {
    auto found = kernels.find(name);
    if (found == kernels.end()) return NOT_FOUND;
    return *function = &found->second, 0;
}
// CUlaunchConfig. Attributes only let kernels begin earlier.
struct LaunchConfig {
    unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared;
    void *stream, *attributes;
    unsigned attribute_count;
};
API cuLaunchKernelEx(const LaunchConfig *config, void *function, void **parameters, void **) {
    auto [grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, a, c] = *config;
    bool threads = block_x >= 1 && block_x <= MOST_THREADS && block_y == 1 && block_z == 1;
    if (!threads || grid_x < 1 || grid_y < 1 || grid_y > 65535 || grid_z != 1) return INVALID_VALUE;
    if (idle()) return 0;
    std::function<void()> kernel = (*(Binder *)function)(parameters);
    return enqueue(stream, [=, grid_x = grid_x, grid_y = grid_y, block_x = block_x] {
        if (!stacks)
            stacks = (unsigned char *)mmap(nullptr, MOST_THREADS * STACK, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        body = &kernel;
        blockDim = {block_x, 1, 1};
        gridDim = {grid_x, grid_y, 1};
        for (unsigned y = 0; y < grid_y; y++)
            for (unsigned x = 0; x < grid_x; x++) {
                blockIdx = {x, y, 0};
                run_block((int)block_x);
            }
    });
}

API cuStreamBeginCapture_v2(void *stream, int) {
    return ((Stream *)stream)->capturing = new Graph, 0;
}
API cuStreamEndCapture(void *stream, void **graph) {
    *graph = ((Stream *)stream)->capturing;
    return ((Stream *)stream)->capturing = nullptr, 0;
}
API cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long) {
    return *executable = new Graph(*(Graph *)graph), 0;
}
API cuGraphLaunch(void *executable, void *stream) {
    for (auto &work : *(Graph *)executable) enqueue(stream, work);
    return 0;
}
API cuGraphUpload(void *, void *) { return 0; }
API cuGraphDestroy(void *graph) { return delete (Graph *)graph, 0; }
API cuGraphExecDestroy(void *executable) { return delete (Graph *)executable, 0; }
