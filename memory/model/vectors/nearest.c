// Exact nearest neighbours by cosine among rows in memory, without Python's lock: see kernels.py, which alone
// calls this, and says of each function what it takes. Nothing here keeps anything between two calls.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

// Products are not fused with sums: some processors would, and others not.
#pragma STDC FP_CONTRACT OFF

#define LANES 16
#define TOGETHER 64   // queries whose levels stay in the processor's nearest cache
#define BLOCK 32      // rows of which the same is true
#define KNOWN 1024
#define AHEAD 4       // rows are asked of memory so many before their turn
#define NO_MEMORY -1
#define TOO_FEW -2

const float ROUNDING = 2e-6f;  // what float32 adds to a score of at most 1 or so: a handful of roundings of 2**-24 each

// As `RowLevels` and `QueryLevels` in kernels.py.
struct rows {
    const void *vectors;
    const int8_t *levels;
    const float *steps, *errors;
    const int64_t *hashes;
    int64_t half, count, dim;
};

struct queries {
    const double *vectors;
    const int8_t *levels;
    const float *steps, *errors;
    int64_t count;
};

struct entry {
    double key;
    int64_t place;
};

struct known {
    int64_t query, hash;
    double distance;
};

struct work {
    struct entry *heap, *found;
    struct known known[KNOWN];
    int64_t query;
};

// From `at` downwards, where only that one may be out of its place. The least is the first.
static inline void sift(struct entry *heap, int64_t size, int64_t at) {
    struct entry one = heap[at];
    for (int64_t child; (child = 2 * at + 1) < size; at = child) {
        if (child + 1 < size && heap[child + 1].key < heap[child].key) child++;
        if (one.key <= heap[child].key) break;
        heap[at] = heap[child];
    }
    heap[at] = one;
}

static inline void replace_least(struct entry *heap, int64_t size, struct entry one) {
    heap[0] = one;
    sift(heap, size, 0);
}

static inline void make_heap(struct entry *heap, int64_t size) {
    for (int64_t at = size / 2; at--;) sift(heap, size, at);
}

#define NAME(f) f##_plain
#include "variant.h"
#undef NAME

#if defined(__x86_64__)
#pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
#define AVX2
#define NAME(f) f##_avx2
#include "variant.h"
#undef NAME
#undef AVX2
#pragma clang attribute pop

#pragma clang attribute push( \
    __attribute__((target("avx2,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"))), apply_to = function)
#define VNNI
#define NAME(f) f##_vnni
#include "variant.h"
#undef NAME
#undef VNNI
#pragma clang attribute pop
#define VARIANTS(f) {f##_plain, f##_avx2, f##_vnni}
#else
#define VARIANTS(f) {f##_plain}
#endif

#if defined(__x86_64__)
#define HAS(bits, bit) ((bits) >> (bit) & 1)
// Registers that the system keeps for each thread: 256 bits, and 512.
#define KEEPS_YMM(state) (((state) & 0x06) == 0x06)
#define KEEPS_ZMM(state) (((state) & 0xe6) == 0xe6)
#endif

// The best of the variants that this processor has instructions for, by number from 0. (Of the compiler's
// __builtin_cpu_supports Zig's runtime knows nothing.)
int64_t best_variant(void) {
#if defined(__x86_64__)
    unsigned a, b, c, d, basic, state, high;
    if (!__get_cpuid(1, &a, &b, &basic, &d) || !HAS(basic, 27)) return 0;
    __asm__("xgetbv" : "=a"(state), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    int avx2 = HAS(b, 5), f16c = HAS(basic, 29);
    int avx512 = HAS(b, 16) && HAS(b, 17) && HAS(b, 30) && HAS(b, 31), vnni = HAS(c, 11);  // f, dq, bw, vl
    if (!avx2 || !f16c || !KEEPS_YMM(state)) return 0;
    return avx512 && vnni && KEEPS_ZMM(state) ? 2 : 1;
#else
    return 0;
#endif
}

typedef void scores_function(const struct rows *, const struct queries *, float *, int64_t);
typedef void distances_function(const struct rows *, const double *, double, double *);
typedef int64_t nearest_function(const struct rows *, const double *, double, float, float *, int64_t,
                                 struct work *);

void write_scores(int64_t variant, const struct rows *rows, const struct queries *queries, float *scores,
                  int64_t room) {
    static scores_function *const of[] = VARIANTS(scores);
    of[variant](rows, queries, scores, room);
}

static double length(const double *query, int64_t dim) {
    double squares = 0;
    for (int64_t d = 0; d < dim; d++) squares += query[d] * query[d];
    return sqrt(squares);
}

void distances(int64_t variant, const struct rows *rows, const double *query, double *found) {
    static distances_function *const of[] = VARIANTS(distances);
    of[variant](rows, query, length(query, rows->dim), found);
}

static int by_distance(const void *a, const void *b) {
    double one = ((const struct entry *)a)->key, other = ((const struct entry *)b)->key;
    return (one < other) - (one > other);
}

int64_t nearest(int64_t variant, const struct rows *rows, const struct queries *queries, float *scores,
                int64_t scores_room, const int64_t *ks, const int64_t *without, const int64_t *without_end,
                int64_t *counts, int64_t *places, double *found, int64_t room) {
    static nearest_function *const of[] = VARIANTS(nearest);
    int64_t most = 1;
    for (int64_t i = 0; i < queries->count; i++) most = ks[i] > most ? ks[i] : most;
    struct work *work = calloc(1, sizeof *work);
    struct entry *heap = malloc(most * sizeof *heap), *entries = malloc((rows->count + 1) * sizeof *entries);
    int64_t done = work && heap && entries ? 0 : NO_MEMORY;
    if (!done) work->heap = heap, work->found = entries;
    for (int64_t i = 0, left_out = 0; !done && i < queries->count; i++) {
        float *its = scores + i * scores_room;
        for (; left_out < without_end[i]; left_out++) its[without[left_out]] = -INFINITY;
        counts[i] = 0;
        if (!ks[i]) continue;
        work->query = i + 1;
        const double *query = queries->vectors + i * rows->dim;
        int64_t candidates =
            of[variant](rows, query, length(query, rows->dim), queries->errors[i], its, ks[i], work);
        if (candidates < 0) done = candidates;
        int64_t kept = 0;
        for (int64_t c = 0; c < candidates; c++)
            if (entries[c].key >= heap[0].key) entries[kept++] = entries[c];
        counts[i] = kept;
        if (kept > room) continue;
        qsort(entries, kept, sizeof *entries, by_distance);
        for (int64_t c = 0; c < kept; c++) {
            places[i * room + c] = entries[c].place;
            found[i * room + c] = -entries[c].key;
        }
    }
    free(work), free(heap), free(entries);
    return done;
}
