// Attention backward: the work of one block. attention.cu has the kernels and their contract.
#pragma once
#include "attention_tile.cuh"

// Of a query: log_sum_exp in powers of two (infinity for a query that does not exist, so that its weights are 0), and
// delta = dO . O.
struct alignas(8) QueryStatistics {
    float log_sum_exp;
    float delta;
};
struct alignas(16) QueryPair {
    QueryStatistics query[2];
};

// dout . out of 8 values, summed over the lanes that share a row of DIM values.
template <int DIM>
DEVICE float row_dot(const Pack8& dout, const Pack8& out) {
    float dot = 0.f;
#pragma unroll
    for (int i = 0; i < 8; i++) dot += dout.get(i) * out.get(i);
#pragma unroll
    for (int offset = DIM / 16; offset; offset >>= 1) dot += __shfl_xor_sync(ALL_LANES, dot, offset);
    return dot;
}

// 16 keys that a warp owns, with their gradients.
template <int DIM>
struct KeyTile {
    OwnRows<DIM> k;
    OwnRows<DIM> v;
    float dk[DIM / 8][4];
    float dv[DIM / 8][4];
};

// What 16 queries add to the gradients of the warp's keys. DIAGONAL: they are the same tokens, a query sees the keys up
// to itself. `scale` holds log2(e).
template <bool DIAGONAL, int DIM>
DEVICE void add_queries(KeyTile<DIM>& tile, const bf16* q, const bf16* dout, const QueryStatistics* statistics,
                        float scale) {
    // Transposed: a row is a key, a column is a query.
    float weight[2][4] = {}, dscore[2][4] = {};
#pragma unroll
    for (int i = 0; i < DIM / 16; i++) {
        uint32_t a[4], b[4];
        tile.k.get(a, i);
        load_columns<DIM>(b, q, i);
        ptx::mma_m16n8k16(weight[0], a, b[0], b[1]);
        ptx::mma_m16n8k16(weight[1], a, b[2], b[3]);
        tile.v.get(a, i);
        load_columns<DIM>(b, dout, i);
        ptx::mma_m16n8k16(dscore[0], a, b[0], b[1]);
        ptx::mma_m16n8k16(dscore[1], a, b[2], b[3]);
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
        int query = 8 * j + 2 * lane_pair();
        QueryPair pair = *reinterpret_cast<const QueryPair*>(statistics + query);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const QueryStatistics& of = pair.query[i & 1];
            float p = ptx::ex2(weight[j][i] * scale - of.log_sum_exp);
            if (DIAGONAL && query + (i & 1) < lane_row() + 8 * (i >> 1)) p = 0.f;
            weight[j][i] = p;
            dscore[j][i] = p * (dscore[j][i] - of.delta);
        }
    }
    uint32_t p[4], ds[4];
    to_operand(p, weight[0], weight[1]);
    to_operand(ds, dscore[0], dscore[1]);
#pragma unroll
    for (int j = 0; j < DIM / 16; j++) {
        uint32_t b[4];
        load_depth<DIM>(b, dout, j);
        ptx::mma_m16n8k16(tile.dv[2 * j], p, b[0], b[1]);
        ptx::mma_m16n8k16(tile.dv[2 * j + 1], p, b[2], b[3]);
        load_depth<DIM>(b, q, j);
        ptx::mma_m16n8k16(tile.dk[2 * j], ds, b[0], b[1]);
        ptx::mma_m16n8k16(tile.dk[2 * j + 1], ds, b[2], b[3]);
    }
}

// 16 queries that a warp owns, with their gradient; `statistics` of the lane's two rows.
template <int DIM>
struct QueryTile {
    OwnRows<DIM> q;
    OwnRows<DIM> dout;
    QueryStatistics statistics[2];
    float dq[DIM / 8][4];
};

// What 16 keys add to the gradient of the warp's queries. EDGE: the lane's rows see the first `limit` keys and the
// first `limit + limit_step` ones.
template <bool EDGE, int DIM>
DEVICE void add_keys(QueryTile<DIM>& tile, const bf16* k, const bf16* v, float scale, int limit, int limit_step) {
    float score[2][4] = {}, dscore[2][4] = {};
#pragma unroll
    for (int i = 0; i < DIM / 16; i++) {
        uint32_t a[4], b[4];
        tile.q.get(a, i);
        load_columns<DIM>(b, k, i);
        ptx::mma_m16n8k16(score[0], a, b[0], b[1]);
        ptx::mma_m16n8k16(score[1], a, b[2], b[3]);
        tile.dout.get(a, i);
        load_columns<DIM>(b, v, i);
        ptx::mma_m16n8k16(dscore[0], a, b[0], b[1]);
        ptx::mma_m16n8k16(dscore[1], a, b[2], b[3]);
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
        int key = 8 * j + 2 * lane_pair();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const QueryStatistics& of = tile.statistics[i >> 1];
            float p = ptx::ex2(score[j][i] * scale - of.log_sum_exp);
            if (EDGE && key + (i & 1) >= limit + limit_step * (i >> 1)) p = 0.f;
            dscore[j][i] = p * (dscore[j][i] - of.delta);
        }
    }
    uint32_t ds[4];
    to_operand(ds, dscore[0], dscore[1]);
#pragma unroll
    for (int j = 0; j < DIM / 16; j++) {
        uint32_t b[4];
        load_depth<DIM>(b, k, j);
        ptx::mma_m16n8k16(tile.dq[2 * j], ds, b[0], b[1]);
        ptx::mma_m16n8k16(tile.dq[2 * j + 1], ds, b[2], b[3]);
    }
}

// The matrices of one head that the backward pass reads and writes.
struct BackwardHead {
    HeadMatrix q, k, v, out, dout;
    const float* log_sum_exp;
    bf16* dq;
    int width;
};

DEVICE BackwardHead backward_head(const bf16* qkv, const bf16* out, const float* log_sum_exp, const bf16* dout,
                                  bf16* dqkv, int tokens, int heads, int head_dim) {
    int width = heads * head_dim;
    int64_t first_row = int64_t(blockIdx.x / heads) * tokens;
    int column = blockIdx.x % heads * head_dim;
    const bf16* q = qkv + first_row * (3 * width) + column;
    return {
        {q, 3 * width, tokens, head_dim},
        {q + width, 3 * width, tokens, head_dim},
        {q + 2 * width, 3 * width, tokens, head_dim},
        {out + first_row * width + column, width, tokens, head_dim},
        {dout + first_row * width + column, width, tokens, head_dim},
        log_sum_exp + int64_t(blockIdx.x) * tokens,
        dqkv + first_row * (3 * width) + column,
        width,
    };
}

template <int DIM>
DEVICE void store_keys(const BackwardHead& head, const KeyTile<DIM>& tile, int first, float scale) {
    int tokens = head.q.rows, head_dim = head.q.columns;
    float scales[2] = {scale, scale}, ones[2] = {1.f, 1.f};
    store_rows<DIM>(head.dq + head.width, 3 * head.width, first, tokens, head_dim, tile.dk, scales);
    store_rows<DIM>(head.dq + 2 * head.width, 3 * head.width, first, tokens, head_dim, tile.dv, ones);
}

template <int DIM>
DEVICE void store_queries(const BackwardHead& head, const QueryTile<DIM>& tile, int first, float scale) {
    float scales[2] = {scale, scale};
    store_rows<DIM>(head.dq, 3 * head.width, first, head.q.rows, head.q.columns, tile.dq, scales);
}

// All of a head in shared memory.
template <int DIM>
DEVICE void backward(const bf16* qkv, const bf16* out, const float* log_sum_exp, const bf16* dout, bf16* dqkv,
                     int tokens, int heads, int head_dim, int causal, float scale) {
    // Q, K, V, dO [rows, DIM] each, then the statistics of `rows` queries.
    DYNAMIC_SHARED(bf16, queries);
    int rows = round_up(tokens, STEP), tiles = rows / STEP;
    bf16* keys = queries + rows * DIM;
    bf16* values = keys + rows * DIM;
    bf16* douts = values + rows * DIM;
    QueryStatistics* statistics = reinterpret_cast<QueryStatistics*>(douts + rows * DIM);

    BackwardHead head = backward_head(qkv, out, log_sum_exp, dout, dqkv, tokens, heads, head_dim);
    copy_rows<DIM>(queries, head.q, 0, rows, threadIdx.x, blockDim.x);
    copy_rows<DIM>(keys, head.k, 0, rows, threadIdx.x, blockDim.x);
    copy_rows<DIM>(values, head.v, 0, rows, threadIdx.x, blockDim.x);
    ptx::cp_async_commit();

    // dO goes through registers, because it meets O there. A warp takes a few rows at a time, and loads of BATCH times
    // as many are in flight.
    constexpr int CHUNKS = DIM / 8, ROWS = 32 / CHUNKS, BATCH = 4;
    int warp = uniform_warp_id(), warps = blockDim.x / 32, chunk = lane_id() % CHUNKS;
    for (int start = warp * ROWS; start < rows; start += BATCH * warps * ROWS) {
        Pack8 dout8[BATCH] = {}, out8[BATCH] = {};
        float log_sum_exp[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            int row = start + i * warps * ROWS + lane_id() / CHUNKS;
            log_sum_exp[i] = row < tokens ? head.log_sum_exp[row] : INFINITY;
            if (row < tokens && chunk * 8 < head_dim) {
                dout8[i] = load8(head.dout.data + int64_t(row) * head.dout.stride + chunk * 8);
                out8[i] = load8(head.out.data + int64_t(row) * head.out.stride + chunk * 8);
            }
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            int first = start + i * warps * ROWS, row = first + lane_id() / CHUNKS;
            if (first >= rows) break;
            store8(douts + place<DIM>(row, chunk), dout8[i]);
            float delta = row_dot<DIM>(dout8[i], out8[i]);
            if (chunk == 0) statistics[row] = {log_sum_exp[i] * LOG2_E, delta};
        }
    }
    ptx::cp_async_wait<0>();
    __syncthreads();

    // From here on shared memory is only read. A warp's work: 16 keys or 16 queries; keys come first, they take longer.
#pragma unroll 1
    for (int work = warp; work < 2 * tiles; work += warps) {
        if (work < tiles) {
            int first = work * STEP;
            KeyTile<DIM> tile = {};
            tile.k.load(keys + first * DIM);
            tile.v.load(values + first * DIM);
            int query = 0;
            if (causal) {
                add_queries<true>(tile, queries + first * DIM, douts + first * DIM, statistics + first, scale * LOG2_E);
                query = first + STEP;
            }
#pragma unroll 1
            for (; query < rows; query += STEP) {
                add_queries<false>(tile, queries + query * DIM, douts + query * DIM, statistics + query,
                                   scale * LOG2_E);
            }
            store_keys(head, tile, first, scale);
        } else {
            int first = (work - tiles) * STEP;
            QueryTile<DIM> tile = {};
            tile.q.load(queries + first * DIM);
            tile.dout.load(douts + first * DIM);
            tile.statistics[0] = statistics[first + lane_row()];
            tile.statistics[1] = statistics[first + lane_row() + 8];
            int last = causal ? first : rows - STEP;
#pragma unroll 1
            for (int key = 0; key < last; key += STEP) {
                add_keys<false>(tile, keys + key * DIM, values + key * DIM, scale * LOG2_E, 0, 0);
            }
            int limit = causal ? lane_row() + 1 : tokens - last;
            add_keys<true>(tile, keys + last * DIM, values + last * DIM, scale * LOG2_E, limit, causal ? 8 : 0);
            store_queries(head, tile, first, scale);
        }
    }
}

// A head of any length: each warp of a block owns 16 keys, or 16 queries, and the block goes over the others, two tiles
// at a time. Six warps, because two such blocks on a multiprocessor then have 168 registers a thread; a tile is half as
// long where rows are twice as long, for the 99 KiB of shared memory that a block of any GPU can have.
constexpr int LONG_WARPS = 6, LONG_OWN = LONG_WARPS * STEP;
constexpr int LONG_TILE_64 = 64, LONG_TILE_128 = 32;
template <int DIM>
constexpr int LONG_TILE = DIM > 64 ? LONG_TILE_128 : LONG_TILE_64;

template <int DIM>
DEVICE void backward_keys(bf16* shared, const BackwardHead& head, int causal, float scale) {
    // K, V [OWN, DIM]; twice Q, dO, O [TILE, DIM]; the statistics of a tile.
    constexpr int OWN = LONG_OWN, TILE = LONG_TILE<DIM>, CHUNKS = DIM / 8, ROWS = 32 / CHUNKS;
    bf16* keys = shared;
    bf16* values = keys + OWN * DIM;
    bf16* ring = values + OWN * DIM;
    QueryStatistics* statistics = reinterpret_cast<QueryStatistics*>(ring + 6 * TILE * DIM);

    int tokens = head.q.rows, threads = LONG_WARPS * 32;
    int block_first = blockIdx.y * OWN, warp = uniform_warp_id(), first = block_first + warp * STEP;
    int first_tile = causal ? block_first / TILE : 0, tiles = (tokens + TILE - 1) / TILE;
    auto copy_tile = [&](int tile) {
        bf16* slot = ring + (tile & 1) * 3 * TILE * DIM;
        copy_rows<DIM>(slot, head.q, tile * TILE, TILE, threadIdx.x, threads);
        copy_rows<DIM>(slot + TILE * DIM, head.dout, tile * TILE, TILE, threadIdx.x, threads);
        copy_rows<DIM>(slot + 2 * TILE * DIM, head.out, tile * TILE, TILE, threadIdx.x, threads);
        ptx::cp_async_commit();
    };

    copy_rows<DIM>(keys, head.k, block_first, OWN, threadIdx.x, threads);
    copy_rows<DIM>(values, head.v, block_first, OWN, threadIdx.x, threads);
    copy_tile(first_tile);
    KeyTile<DIM> own = {};
#pragma unroll 1
    for (int tile = first_tile; tile < tiles; tile++) {
        float log_sum_exp = INFINITY;
        int query = tile * TILE + int(threadIdx.x);
        if (threadIdx.x < TILE && query < tokens) log_sum_exp = head.log_sum_exp[query];
        // After this barrier the tile is there, and nobody still reads the one before it or its statistics.
        ptx::cp_async_wait<0>();
        __syncthreads();
        if (tile == first_tile) {
            own.k.load(keys + warp * STEP * DIM);
            own.v.load(values + warp * STEP * DIM);
        }
        if (tile + 1 < tiles) copy_tile(tile + 1);
        const bf16* q = ring + (tile & 1) * 3 * TILE * DIM;
        const bf16* dout = q + TILE * DIM;
        const bf16* out = dout + TILE * DIM;
        if (threadIdx.x < TILE) statistics[threadIdx.x].log_sum_exp = log_sum_exp * LOG2_E;
        for (int start = warp * ROWS; start < TILE; start += LONG_WARPS * ROWS) {
            int row = start + lane_id() / CHUNKS, chunk = lane_id() % CHUNKS;
            float delta = row_dot<DIM>(load8(dout + place<DIM>(row, chunk)), load8(out + place<DIM>(row, chunk)));
            if (chunk == 0) statistics[row].delta = delta;
        }
        __syncthreads();
        if (first >= tokens) continue;
#pragma unroll 1
        for (int row = 0; row < TILE && tile * TILE + row < tokens; row += STEP) {
            int query = tile * TILE + row;
            if (causal && query < first) continue;
            if (causal && query == first) {
                add_queries<true>(own, q + row * DIM, dout + row * DIM, statistics + row, scale * LOG2_E);
            } else {
                add_queries<false>(own, q + row * DIM, dout + row * DIM, statistics + row, scale * LOG2_E);
            }
        }
    }
    if (first < tokens) store_keys(head, own, first, scale);
}

template <int DIM>
DEVICE void backward_queries(bf16* shared, const BackwardHead& head, int causal, float scale) {
    // Q, dO [OWN, DIM]; twice K, V [TILE, DIM]; the statistics of the block's own queries.
    constexpr int OWN = LONG_OWN, TILE = LONG_TILE<DIM>, CHUNKS = DIM / 8, ROWS = 32 / CHUNKS;
    bf16* queries = shared;
    bf16* douts = queries + OWN * DIM;
    bf16* ring = douts + OWN * DIM;

    int tokens = head.q.rows, head_dim = head.q.columns, threads = LONG_WARPS * 32;
    int block_first = blockIdx.y * OWN, warp = uniform_warp_id(), first = block_first + warp * STEP;
    QueryStatistics* statistics = reinterpret_cast<QueryStatistics*>(ring + 4 * TILE * DIM) + warp * STEP;
    int keys = causal ? min(tokens, block_first + OWN) : tokens, tiles = (keys + TILE - 1) / TILE;
    auto copy_tile = [&](int tile) {
        bf16* slot = ring + (tile & 1) * 2 * TILE * DIM;
        copy_rows<DIM>(slot, head.k, tile * TILE, TILE, threadIdx.x, threads);
        copy_rows<DIM>(slot + TILE * DIM, head.v, tile * TILE, TILE, threadIdx.x, threads);
        ptx::cp_async_commit();
    };

    copy_rows<DIM>(queries, head.q, block_first, OWN, threadIdx.x, threads);
    copy_rows<DIM>(douts, head.dout, block_first, OWN, threadIdx.x, threads);
    copy_tile(0);
    for (int start = 0; start < STEP; start += ROWS) {
        int row = start + lane_id() / CHUNKS, column = lane_id() % CHUNKS * 8;
        int64_t place = int64_t(first + row) * head.out.stride + column;
        bool exists = first + row < tokens;
        Pack8 dout8 = {}, out8 = {};
        if (exists && column < head_dim) {
            dout8 = load8(head.dout.data + place);
            out8 = load8(head.out.data + place);
        }
        float delta = row_dot<DIM>(dout8, out8);
        if (column == 0) statistics[row] = {exists ? head.log_sum_exp[first + row] * LOG2_E : INFINITY, delta};
    }
    QueryTile<DIM> own = {};
#pragma unroll 1
    for (int tile = 0; tile < tiles; tile++) {
        // After this barrier the tile is there, and nobody still reads the one before it.
        ptx::cp_async_wait<0>();
        __syncthreads();
        if (tile == 0) {
            own.q.load(queries + warp * STEP * DIM);
            own.dout.load(douts + warp * STEP * DIM);
            own.statistics[0] = statistics[lane_row()];
            own.statistics[1] = statistics[lane_row() + 8];
        }
        if (tile + 1 < tiles) copy_tile(tile + 1);
        if (first >= tokens) continue;
        const bf16* k = ring + (tile & 1) * 2 * TILE * DIM;
        const bf16* v = k + TILE * DIM;
#pragma unroll 1
        for (int row = 0; row < TILE && tile * TILE + row < keys; row += STEP) {
            int key = tile * TILE + row;
            if (causal && key > first) break;
            if (key + STEP <= (causal ? first : tokens)) {
                add_keys<false>(own, k + row * DIM, v + row * DIM, scale * LOG2_E, 0, 0);
            } else {
                int limit = causal ? lane_row() + 1 : tokens - key;
                add_keys<true>(own, k + row * DIM, v + row * DIM, scale * LOG2_E, limit, causal ? 8 : 0);
            }
        }
    }
    if (first < tokens) store_queries(head, own, first, scale);
}

template <int DIM>
DEVICE void backward_long(const bf16* qkv, const bf16* out, const float* log_sum_exp, const bf16* dout, bf16* dqkv,
                          int tokens, int heads, int head_dim, int causal, float scale) {
    DYNAMIC_SHARED(bf16, shared);
    BackwardHead head = backward_head(qkv, out, log_sum_exp, dout, dqkv, tokens, heads, head_dim);
    if (blockIdx.z == 0) {
        backward_keys<DIM>(shared, head, causal, scale);
    } else {
        backward_queries<DIM>(shared, head, causal, scale);
    }
}
