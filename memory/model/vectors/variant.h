// The kernels for one set of instructions: included once for each, with NAME(f) naming them apart.

#ifdef VNNI
// Of four rows with one query, a sum each.
static inline __m128i NAME(four_sums)(__m512i a, __m512i b, __m512i c, __m512i d) {
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

// The processor multiplies unsigned bytes with signed ones, so rows are taken 128 higher.
#define HIGHER 128

// Sums of `rows` rows with `queries` queries, at most four of each; nothing beyond `dim` is read.
static inline void NAME(sums_of)(const int8_t *row, int64_t rows, const int8_t *query, int64_t queries,
                              int64_t dim, int32_t sums[4][4]) {
    const __m512i higher = _mm512_set1_epi8((char)HIGHER);
    __m512i found[4][4];
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < 4; i++) found[j][i] = _mm512_setzero_si512();
    for (int64_t at = 0; at < dim; at += 64) {
        __mmask64 some = dim - at < 64 ? ((__mmask64)1 << (dim - at)) - 1 : ~(__mmask64)0;
        __m512i r[4];
        for (int i = 0; i < 4; i++) {
            const int8_t *one = row + (i < rows ? i : 0) * dim + at;
            r[i] = _mm512_xor_si512(_mm512_maskz_loadu_epi8(some, one), higher);
        }
        for (int j = 0; j < queries; j++) {
            __m512i q = _mm512_maskz_loadu_epi8(some, query + j * dim + at);
            for (int i = 0; i < 4; i++) found[j][i] = _mm512_dpbusd_epi32(found[j][i], r[i], q);
        }
    }
    for (int j = 0; j < queries; j++)
        _mm_storeu_si128((__m128i *)sums[j],
                         NAME(four_sums)(found[j][0], found[j][1], found[j][2], found[j][3]));
}

// With constants all that is added up stays in registers.
static inline void NAME(sums)(const int8_t *row, int64_t rows, const int8_t *query, int64_t queries,
                              int64_t dim, int32_t sums[4][4]) {
    switch (queries) {
        case 1: NAME(sums_of)(row, rows, query, 1, dim, sums); break;
        case 2: NAME(sums_of)(row, rows, query, 2, dim, sums); break;
        case 3: NAME(sums_of)(row, rows, query, 3, dim, sums); break;
        default: NAME(sums_of)(row, rows, query, 4, dim, sums);
    }
}
#elif defined(AVX2)
#define HIGHER 0

// As above. For more than two queries there are too few registers.
static inline void NAME(sums_of)(const int8_t *row, int64_t rows, const int8_t *query, int64_t queries,
                              int64_t dim, int32_t sums[2][4]) {
    __m256i found[2][4];
    for (int j = 0; j < 2; j++)
        for (int i = 0; i < 4; i++) found[j][i] = _mm256_setzero_si256();
    int64_t at = 0;
    for (; at + 16 <= dim; at += 16) {
        __m256i r[4];
        for (int i = 0; i < 4; i++)
            r[i] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(row + (i < rows ? i : 0) * dim + at)));
        for (int j = 0; j < queries; j++) {
            __m256i q = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(query + j * dim + at)));
            for (int i = 0; i < 4; i++)
                found[j][i] = _mm256_add_epi32(found[j][i], _mm256_madd_epi16(r[i], q));
        }
    }
    for (int j = 0; j < queries; j++) {
        __m256i all = _mm256_hadd_epi32(_mm256_hadd_epi32(found[j][0], found[j][1]),
                                        _mm256_hadd_epi32(found[j][2], found[j][3]));
        _mm_storeu_si128((__m128i *)sums[j], _mm_add_epi32(_mm256_castsi256_si128(all),
                                                           _mm256_extracti128_si256(all, 1)));
        for (int64_t i = 0; i < rows; i++)
            for (int64_t d = at; d < dim; d++) sums[j][i] += (int32_t)row[i * dim + d] * query[j * dim + d];
    }
}

static inline void NAME(sums)(const int8_t *row, int64_t rows, const int8_t *query, int64_t queries,
                              int64_t dim, int32_t sums[4][4]) {
    for (int64_t j = 0; j < queries; j += 2)
        if (queries - j > 1) NAME(sums_of)(row, rows, query + j * dim, 2, dim, sums + j);
        else NAME(sums_of)(row, rows, query + j * dim, 1, dim, sums + j);
}
#else
#define HIGHER 0

static inline void NAME(sums)(const int8_t *row, int64_t rows, const int8_t *query, int64_t queries,
                              int64_t dim, int32_t sums[4][4]) {
    for (int64_t j = 0; j < queries; j++)
        for (int64_t i = 0; i < rows; i++) {
            int32_t sum = 0;
            for (int64_t d = 0; d < dim; d++) sum += (int32_t)row[i * dim + d] * query[j * dim + d];
            sums[j][i] = sum;
        }
}
#endif

static void NAME(scores)(const struct rows *rows, const struct queries *queries, float *scores, int64_t room) {
    const int8_t *levels = rows->levels, *asked = queries->levels;
    const int64_t dim = rows->dim;
    for (int64_t first = 0; first < queries->count; first += TOGETHER) {
        int64_t end = queries->count - first < TOGETHER ? queries->count : first + TOGETHER;
        int32_t too_much[TOGETHER] = {0};
        for (int64_t j = first; HIGHER && j < end; j++)
            for (int64_t d = 0; d < dim; d++) too_much[j - first] += HIGHER * asked[j * dim + d];
        for (int64_t block = 0; block < rows->count; block += BLOCK) {
            int64_t block_end = rows->count - block < BLOCK ? rows->count : block + BLOCK;
            for (int64_t j = first; j < end; j += 4)
                for (int64_t row = block; row < block_end; row += 4) {
                    int64_t some = end - j < 4 ? end - j : 4;
                    int64_t count = block_end - row < 4 ? block_end - row : 4;
                    int32_t sums[4][4];
                    NAME(sums)(levels + row * dim, count, asked + j * dim, some, dim, sums);
                    for (int64_t q = 0; q < some; q++)
                        for (int64_t i = 0; i < count; i++)
                            scores[(j + q) * room + row + i] = (float)(sums[q][i] - too_much[j + q - first])
                                                               * (queries->steps[j + q] * rows->steps[row + i]);
                }
        }
    }
}
#undef HIGHER

// Sums of products, and of the row's squares, in float64: sixteen of each, which are added up in the end. So
// the same row and query have the same distance to the last bit on every processor.
static inline double NAME(distance)(const struct rows *rows, int64_t at, const double *query, double norm) {
    double dots[LANES] = {0}, squares[LANES] = {0};
    const int64_t half = rows->half, dim = rows->dim;
    const _Float16 *halves = (const _Float16 *)rows->vectors + at * dim;
    const float *singles = (const float *)rows->vectors + at * dim;
    int64_t d = 0;
    if (half)
        for (; d + LANES <= dim; d += LANES)
            for (int i = 0; i < LANES; i++) {
                double value = (double)(float)halves[d + i];
                dots[i] += value * query[d + i];
                squares[i] += value * value;
            }
    else
        for (; d + LANES <= dim; d += LANES)
            for (int i = 0; i < LANES; i++) {
                double value = singles[d + i];
                dots[i] += value * query[d + i];
                squares[i] += value * value;
            }
    for (int i = 0; d < dim; d++, i++) {
        double value = half ? (double)(float)halves[d] : singles[d];
        dots[i] += value * query[d];
        squares[i] += value * value;
    }
    for (int size = LANES / 2; size; size /= 2)
        for (int i = 0; i < size; i++) {
            dots[i] += dots[i + size];
            squares[i] += squares[i + size];
        }
    double distance = 1 - dots[0] / (sqrt(squares[0]) * norm);
    return distance < 0 ? 0 : distance > 2 ? 2 : distance;
}

static void NAME(distances)(const struct rows *rows, const double *query, double norm, double *found) {
    for (int64_t i = 0; i < rows->count; i++) found[i] = NAME(distance)(rows, i, query, norm);
}

// Equal rows come by the thousand, where they come: what was found for one holds for all of its hash.
static inline double NAME(distance_of)(const struct rows *rows, int64_t at, const double *query, double norm,
                                       struct work *work) {
    int64_t hash = rows->hashes[at];
    struct known *known = &work->known[(uint64_t)hash % KNOWN];
    if (known->query != work->query || known->hash != hash)
        *known = (struct known){
            work->query, hash, NAME(distance)(rows, at, query, norm)};
    return known->distance;
}

// Whether one of the rows from `at` to `end`, at most LANES, may score at least so much.
static inline int NAME(any)(const float *scores, const float *errors, float share, float more,
                            int64_t at, int64_t end, float least) {
    int found = 0;
    if (end - at == LANES)
        for (int i = 0; i < LANES; i++)
            found |= scores[at + i] + (errors[at + i] * share + more) >= least;
    else
        for (int64_t i = at; i < end; i++) found |= scores[i] + (errors[i] * share + more) >= least;
    return found;
}

// What is read from memory some rows later.
static inline void NAME(expect)(const struct rows *rows, int64_t at) {
    const int64_t size = rows->dim * (rows->half ? 2 : 4);
    const char *row = (const char *)rows->vectors + at * size;
    for (int64_t line = 0; line < size; line += 64) __builtin_prefetch(row + line);
}

// Leaves in `heap` the k nearest, the least key first, and in `found` these and some that are farther.
static int64_t NAME(nearest)(const struct rows *rows, const double *query, double norm, float missing,
                             float *scores, int64_t k, struct work *work) {
    const float *errors = rows->errors;
    const float share = 1 + missing, more = missing + ROUNDING;
    const int64_t count = rows->count;
    struct entry *heap = work->heap, *found = work->found;
    // The k of the greatest scores that rows have for sure: at least so many are as near as the farthest of them.
    for (int64_t i = 0; i < k; i++) heap[i] = (struct entry){-INFINITY, -1};
    for (int64_t at = 0; at < count; at += LANES) {
        int64_t end = count - at < LANES ? count : at + LANES;
        if (!NAME(any)(scores, errors, -share, -more, at, end, (float)heap[0].key)) continue;
        for (int64_t i = at; i < end; i++) {
            double low = scores[i] - (errors[i] * share + more);
            if (low > heap[0].key) replace_least(heap, k, (struct entry){low, i});
        }
    }
    // There is none where too many were left out.
    if (heap[0].place < 0) return TOO_FEW;
    for (int64_t i = 0; i < k; i++) {
        if (i + AHEAD < k) NAME(expect)(rows, heap[i + AHEAD].place);
        int64_t place = heap[i].place;
        found[i] = (struct entry){-NAME(distance_of)(rows, place, query, norm, work), place};
        scores[place] = -INFINITY;
    }
    for (int64_t i = 0; i < k; i++) heap[i] = found[i];
    make_heap(heap, k);
    // Of all others those that may be as near; the more distances are known, the fewer may.
    int64_t end_of_others = k, kept = k;
    float least = (float)(1 + heap[0].key) - ROUNDING / 4;
    for (int64_t at = 0; at < count; at += LANES) {
        int64_t end = count - at < LANES ? count : at + LANES;
        if (!NAME(any)(scores, errors, share, more, at, end, least)) continue;
        for (int64_t i = at; i < end; i++) {
            double high = scores[i] + (errors[i] * share + more);
            if (high >= least) found[end_of_others++] = (struct entry){high, i};
        }
    }
    for (int64_t i = k; i < end_of_others; i++) {
        if (i + AHEAD < end_of_others) NAME(expect)(rows, found[i + AHEAD].place);
        if (found[i].key < (float)(1 + heap[0].key) - ROUNDING / 4) continue;
        struct entry one = {-NAME(distance_of)(rows, found[i].place, query, norm, work), found[i].place};
        if (one.key < heap[0].key) continue;
        found[kept++] = one;
        if (one.key > heap[0].key) replace_least(heap, k, one);
    }
    return kept;
}
