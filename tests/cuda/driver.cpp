// A CUDA driver without a GPU: memory is the processor's, a launch runs our
// kernels, compiled from the same source, block by block. With it the whole of
// `--device cuda` can be tested on any machine; of speed it says nothing.
//
// `run.sh` builds it as libcuda.so.1. Only what the engine calls is here.

#define GPT2_EMULATED
#include "../../src/cuda/kernels/kernels.cu"

#include <atomic>
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
#include <utility>
#include <vector>

// ---- The threads of a block, as fibers.

Uint3 threadIdx, blockIdx, blockDim, gridDim;
unsigned char (*warp_board)[64];

namespace {

enum State { READY, AT_BLOCK, AT_WARP, AT_PREVIOUS, DONE };
const size_t STACK = 64 << 10;
const int MOST_THREADS = 1024;

struct Fiber {
    void *stack_pointer;
    State state;
    // Whether it went through after_previous().
    bool came_after;
};

struct Threads {
    Fiber fibers[MOST_THREADS];
    unsigned char boards[MOST_THREADS / 32][32][64];
    unsigned char *stacks;
    void *main_stack_pointer;
    int current;
    const std::function<void()> *body;
};

// Of a kernel, and of the one before it, which may run while that has begun.
Threads all_threads[2];
Threads *threads = all_threads;
// What must be done before a kernel comes through after_previous().
std::function<void()> previous;

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
    Fiber &fiber = threads->fibers[threads->current];
    fiber.state = state;
    change_stack(&fiber.stack_pointer, threads->main_stack_pointer);
}

void fiber_main() {
    (*threads->body)();
    to_main(DONE);
    abort();
}

void start(int thread) {
    void **top = (void **)(threads->stacks + (thread + 1) * STACK);
    // The return address and six registers; aligned as after a call.
    top -= 2;
    *top = (void *)fiber_main;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    threads->fibers[thread] = {top, READY, false};
}

void resume(int thread) {
    threads->current = thread;
    threadIdx = {(unsigned)thread, 0, 0};
    warp_board = threads->boards[thread / 32];
    change_stack(&threads->main_stack_pointer, threads->fibers[thread].stack_pointer);
}

// Lets those of threads first to last go on that wait for each other.
bool release(int first, int last, State waiting) {
    int count = 0;
    Fiber *fibers = threads->fibers;
    for (int i = first; i < last; i++) {
        if (fibers[i].state == waiting) count++;
        else if (fibers[i].state != DONE) return false;
    }
    if (count > 0 && waiting == AT_PREVIOUS) std::exchange(previous, nullptr)();
    for (int i = first; i < last; i++)
        if (fibers[i].state == waiting) fibers[i].state = READY;
    return count > 0;
}

// A warp runs until it waits for the others of its block, the first one first;
// with CUDA_EMULATED_ORDER=backward, the last one: a missing barrier shows in
// one order or the other.
bool backward() {
    static const bool set = [] {
        const char *order = getenv("CUDA_EMULATED_ORDER");
        return order && !strcmp(order, "backward");
    }();
    return set;
}

void run_block(int count, bool overlaps) {
    for (int i = 0; i < count; i++) start(i);
    int warps = (count + 31) / 32;
    do {
        for (int w = 0; w < warps; w++) {
            int first = 32 * (backward() ? warps - 1 - w : w), last = min(count, first + 32);
            do {
                for (int i = first; i < last; i++) {
                    int thread = backward() ? first + last - 1 - i : i;
                    if (threads->fibers[thread].state == READY) resume(thread);
                }
            } while (release(first, last, AT_WARP));
        }
    } while (release(0, count, AT_BLOCK) || release(0, count, AT_PREVIOUS));
    for (int i = 0; i < count; i++) {
        Fiber &fiber = threads->fibers[i];
        const char *wrong = fiber.state != DONE ? "waits for others that never come"
                            : overlaps && !fiber.came_after ? "ends without after_previous()"
                                                            : nullptr;
        if (!wrong) continue;
        fprintf(stderr, "emulated CUDA: thread %d %s\n", i, wrong);
        abort();
    }
}

// A grid of blocks, one after another.
void run_grid(Uint3 grid, Uint3 block, const std::function<void()> &kernel, bool overlaps) {
    Uint3 before[3] = {blockIdx, blockDim, gridDim};
    if (!threads->stacks)
        threads->stacks =
            (unsigned char *)mmap(nullptr, MOST_THREADS * STACK, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    threads->body = &kernel;
    blockDim = block;
    gridDim = grid;
    for (unsigned y = 0; y < grid.y; y++)
        for (unsigned x = 0; x < grid.x; x++) {
            blockIdx = {x, y, 0};
            run_block((int)block.x, overlaps);
        }
    blockIdx = before[0], blockDim = before[1], gridDim = before[2];
}

} // namespace

// The first block comes here before the kernel before it has begun.
void after_previous() {
    threads->fibers[threads->current].came_after = true;
    if (previous) to_main(AT_PREVIOUS);
}

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
    ENTRY(scan),
    ENTRY(sample),
};

std::mutex &mutex = *new std::mutex;
struct Work {
    std::function<void()> run;
    // Whether it is a kernel, and one that may begin before the last one ends.
    bool is_kernel, overlaps;
};
typedef std::vector<Work> Graph;
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

// Kernels are held back in turn, so that the one after each runs as early as it
// may: backward, the others of them.
std::function<void()> &held = *new std::function<void()>;
bool holds_next = true;

void do_held() {
    if (held) std::exchange(held, nullptr)();
    holds_next = !backward();
}

void execute(const Work &work) {
    if (!work.is_kernel) return do_held(), work.run();
    if (held && work.overlaps) {
        previous = [kernel = std::exchange(held, nullptr)] {
            threads = all_threads + 1;
            kernel();
            threads = all_threads;
        };
        work.run();
        holds_next = true;
        return;
    }
    if (held) std::exchange(held, nullptr)();
    if (holds_next) held = work.run;
    else work.run();
    holds_next = true;
}

int enqueue(void *stream, std::function<void()> run, bool is_kernel = false,
            bool overlaps = false) {
    std::lock_guard<std::mutex> lock(mutex);
    Work work{run, is_kernel, overlaps};
    Graph *capturing = ((Stream *)stream)->capturing;
    if (capturing) capturing->push_back(work);
    else if (lazy()) waiting.push_back(work);
    else execute(work);
    return 0;
}

int do_all() {
    std::lock_guard<std::mutex> lock(mutex);
    for (auto &work : waiting) execute(work);
    waiting.clear();
    do_held();
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
          NOT_FOUND = 500, CAPTURE_UNSUPPORTED = 900;

// Whether this thread records, and must not call what waits for the device, or
// may: the real driver refuses that then.
thread_local bool records = false;

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
    // and 76: the compute capability. 115: memory is had in a stream's order.
    const char *set = getenv("CUDA_EMULATED_MULTIPROCESSORS");
    *value = attribute == 16 ? (set ? atoi(set) : 4) : attribute == 75 ? 9 : attribute == 115;
    return 0;
}
std::atomic<int> contexts{0};
API cuDevicePrimaryCtxRetain(void **context, int) { return contexts++, *context = &mutex, 0; }
API cuDevicePrimaryCtxRelease_v2(int) { return contexts--, 0; }
// With CUDA_EMULATED_CLOSED, a process is to have closed all when it ends: the
// real driver must not be called by a thread that still runs then.
__attribute__((destructor)) void ends() {
    if (contexts == 0 || !getenv("CUDA_EMULATED_CLOSED")) return;
    fprintf(stderr, "emulated CUDA: the process ends with a device open\n");
    _exit(3);
}
API cuCtxSetCurrent(void *) { return 0; }
API cuCtxGetCurrent(void **context) { return *context = &mutex, 0; }
API cuCtxSynchronize() { return do_all(); }
API cuStreamCreate(void **stream, unsigned) { return *stream = new Stream{}, 0; }
API cuStreamDestroy_v2(void *stream) { return delete (Stream *)stream, 0; }
API cuStreamSynchronize(void *stream) {
    return ((Stream *)stream)->capturing ? CAPTURE_UNSUPPORTED : do_all();
}
API cuStreamWaitEvent(void *, void *, unsigned) { return 0; }
// One that was never recorded waits for nothing.
API cuEventCreate(void **event, unsigned) { return *event = new bool{false}, 0; }
API cuEventRecord(void *event, void *) { return *(bool *)event = true, 0; }
API cuEventQuery(void *) { return 0; }
API cuEventSynchronize(void *event) {
    return records ? CAPTURE_UNSUPPORTED : *(bool *)event ? do_all() : 0;
}
API cuEventDestroy_v2(void *event) { return delete (bool *)event, 0; }
API cuGetErrorName(int, const char **name) { return *name = "CUDA_ERROR_EMULATED", 0; }
API cuGetErrorString(int error, const char **text) {
    *text = error == NO_DEVICE             ? "no CUDA-capable device is detected"
            : error == INVALID_DEVICE      ? "invalid device ordinal"
            : error == OUT_OF_MEMORY       ? "out of memory"
            : error == CAPTURE_UNSUPPORTED ? "not while a stream is captured"
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
// The mutex is locked.
int give_back(Pointer pointer) {
    auto found = sizes().find((void *)pointer);
    if (found == sizes().end()) return INVALID_VALUE;
    size_t page = 4096, whole = (found->second + page - 1) / page * page;
    munmap((char *)found->first + found->second - whole, whole + page);
    sizes().erase(found);
    return 0;
}
API cuMemFree_v2(Pointer pointer) {
    do_all();
    std::lock_guard<std::mutex> lock(mutex);
    return give_back(pointer);
}
API cuMemAllocAsync(Pointer *pointer, size_t bytes, void *) {
    return cuMemAlloc_v2(pointer, bytes);
}
// When all is done that was asked before; whatever comes later finds nothing
// there.
API cuMemFreeAsync(Pointer pointer, void *stream) {
    return enqueue(stream, [=] {
        if (give_back(pointer)) abort();
    });
}
API cuMemHostAlloc(void **memory, size_t bytes, unsigned) {
    if (records) return CAPTURE_UNSUPPORTED;
    std::lock_guard<std::mutex> lock(mutex);
    pinned[(char *)(*memory = malloc(bytes))] = bytes;
    return 0;
}
API cuMemFreeHost(void *memory) {
    if (records) return CAPTURE_UNSUPPORTED;
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
API cuFuncSetAttribute(void *, int, int) { return 0; }
// CUlaunchConfig; the one attribute that is used lets kernels overlap.
struct LaunchConfig {
    unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared;
    void *stream, *attributes;
    unsigned attribute_count;
};
API cuLaunchKernelEx(const LaunchConfig *config, void *function, void **parameters, void **) {
    const LaunchConfig &c = *config;
    bool block = c.block_x >= 1 && c.block_x <= MOST_THREADS && c.block_y == 1 && c.block_z == 1;
    bool grid = c.grid_x >= 1 && c.grid_y >= 1 && c.grid_y <= 65535 && c.grid_z == 1;
    if (!block || !grid) return INVALID_VALUE;
    if (idle()) return 0;
    std::function<void()> kernel = (*(Binder *)function)(parameters);
    Uint3 grid_size{c.grid_x, c.grid_y, 1}, block_size{c.block_x, 1, 1};
    bool overlaps = c.attribute_count > 0;
    return enqueue(
        c.stream, [=] { run_grid(grid_size, block_size, kernel, overlaps); }, true, overlaps);
}

API cuStreamBeginCapture_v2(void *stream, int) {
    records = true;
    return ((Stream *)stream)->capturing = new Graph, 0;
}
API cuStreamEndCapture(void *stream, void **graph) {
    records = false;
    *graph = ((Stream *)stream)->capturing;
    return ((Stream *)stream)->capturing = nullptr, 0;
}
API cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long) {
    return *executable = new Graph(*(Graph *)graph), 0;
}
API cuGraphLaunch(void *executable, void *stream) {
    for (auto &work : *(Graph *)executable)
        enqueue(stream, work.run, work.is_kernel, work.overlaps);
    return 0;
}
API cuGraphUpload(void *, void *) { return 0; }
API cuGraphDestroy(void *graph) { return delete (Graph *)graph, 0; }
API cuGraphExecDestroy(void *executable) { return delete (Graph *)executable, 0; }
