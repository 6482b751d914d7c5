// Attention forward: the work of one block. attention.cu has the kernels and their contract.
#pragma once
#include "attention_tile.cuh"

// Keys of one round of the online softmax: fewer where the output takes more registers.
constexpr int KEY_TILE_64 = 48, KEY_TILE_128 = 32;
template <int DIM>
constexpr int KEY_TILE = DIM > 64 ? KEY_TILE_128 : KEY_TILE_64;

// What a warp keeps of its 16 queries while it goes over the keys. `total` is the lane's own part of the sum.
template <int DIM>
struct ForwardState {
    float out[DIM / 8][4];
    float largest[2];
    float total[2];
};

// One tile of keys and values. EDGE: only the first `steps` groups of 16 keys are seen by any row, and the lane's rows
// see the first `limit` and `limit + limit_step` keys.
template <int DIM, bool EDGE>
DEVICE void forward_tile(ForwardState<DIM>& state, const uint32_t (&q)[DIM / 16][4], const bf16* keys,
                         const bf16* values, float scale, int steps, int limit, int limit_step) {
    float score[KEY_TILE<DIM> / 8][4] = {};
#pragma unroll
    for (int step = 0; step < KEY_TILE<DIM> / STEP; step++) {
        if (EDGE && step >= steps) break;
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) {
            uint32_t b[4];
            load_columns<DIM>(b, keys + step * STEP * DIM, k);
            ptx::mma_m16n8k16(score[2 * step], q[k], b[0], b[1]);
            ptx::mma_m16n8k16(score[2 * step + 1], q[k], b[2], b[3]);
        }
    }

    // Scores stay unscaled; `scale` holds log2(e), so that weights are 2^(scale (score - largest)).
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float largest = state.largest[half];
#pragma unroll
        for (int j = 0; j < KEY_TILE<DIM> / 8; j++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float& s = score[j][2 * half + i];
                if (EDGE && 8 * j + 2 * lane_pair() + i >= limit + limit_step * half) s = -INFINITY;
                largest = fmaxf(largest, s);
            }
        }
        largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 2));
        float offset = largest * scale;
        float correction = ptx::ex2(state.largest[half] * scale - offset);
        float total = 0.f;
#pragma unroll
        for (int j = 0; j < KEY_TILE<DIM> / 8; j++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float& s = score[j][2 * half + i];
                s = ptx::ex2(s * scale - offset);
                total += s;
            }
        }
        state.largest[half] = largest;
        state.total[half] = state.total[half] * correction + total;
#pragma unroll
        for (int j = 0; j < DIM / 8; j++) {
            state.out[j][2 * half] *= correction;
            state.out[j][2 * half + 1] *= correction;
        }
    }

#pragma unroll
    for (int step = 0; step < KEY_TILE<DIM> / STEP; step++) {
        if (EDGE && step >= steps) break;
        uint32_t weights[4];
        to_operand(weights, score[2 * step], score[2 * step + 1]);
#pragma unroll
        for (int j = 0; j < DIM / 16; j++) {
            uint32_t b[4];
            load_depth<DIM>(b, values + step * STEP * DIM, j);
            ptx::mma_m16n8k16(state.out[2 * j], weights, b[0], b[1]);
            ptx::mma_m16n8k16(state.out[2 * j + 1], weights, b[2], b[3]);
        }
    }
}

// RESIDENT: all keys and values fit into shared memory and are read once; otherwise two tiles at a time, and one round.
template <int DIM, bool RESIDENT>
DEVICE void forward(const bf16* qkv, bf16* out, float* log_sum_exp, int tokens, int heads, int head_dim, int causal,
                    float scale, int key_rows, int rounds) {
    // K [key_rows, DIM], V [key_rows, DIM], then Q [STEP, DIM] of each warp.
    DYNAMIC_SHARED(bf16, shared);
    int warps = blockDim.x / 32, warp = uniform_warp_id();
    bf16* keys = shared;
    bf16* values = keys + key_rows * DIM;
    bf16* own_queries = values + key_rows * DIM + warp * STEP * DIM;

    int width = heads * head_dim;
    int64_t sample = blockIdx.x / heads;
    int head = blockIdx.x % heads;
    const bf16* first = qkv + sample * tokens * (3 * width) + head * head_dim;
    HeadMatrix q = {first, 3 * width, tokens, head_dim};
    HeadMatrix k = {first + width, 3 * width, tokens, head_dim};
    HeadMatrix v = {first + 2 * width, 3 * width, tokens, head_dim};

    int block_query = blockIdx.y * rounds * warps * STEP;
    int block_end = causal ? min(tokens, block_query + rounds * warps * STEP) : tokens;
    int tiles = (block_end + KEY_TILE<DIM> - 1) / KEY_TILE<DIM>;

    // Where a tile begins in `keys` and `values`.
    auto place_of = [&](int tile) { return (RESIDENT ? tile : tile % 2) * KEY_TILE<DIM> * DIM; };
    auto copy_tile = [&](int tile) {
        int row = tile * KEY_TILE<DIM>;
        int count = min(KEY_TILE<DIM>, round_up(tokens, STEP) - row);
        copy_rows<DIM>(keys + place_of(tile), k, row, count, threadIdx.x, blockDim.x);
        copy_rows<DIM>(values + place_of(tile), v, row, count, threadIdx.x, blockDim.x);
        ptx::cp_async_commit();
    };

    // The first group brings the warp's own queries and the first tile, each later one a tile.
    copy_rows<DIM>(own_queries, q, block_query + warp * STEP, STEP, lane_id(), 32);
    for (int tile = 0; tile < (RESIDENT ? tiles : 1); tile++) copy_tile(tile);

#pragma unroll 1
    for (int round = 0; round < rounds; round++) {
        int first_query = block_query + (round * warps + warp) * STEP;
        if (round == 0) {
            wait_for_copies(RESIDENT ? tiles - 1 : 0);
            __syncthreads();
        } else {
            ptx::cp_async_wait<0>();
            __syncwarp();
        }
        uint32_t query[DIM / 16][4];
#pragma unroll
        for (int i = 0; i < DIM / 16; i++) load_rows<DIM>(query[i], own_queries, i);
        __syncwarp();
        if (round + 1 < rounds) copy_rows<DIM>(own_queries, q, first_query + warps * STEP, STEP, lane_id(), 32);
        ptx::cp_async_commit();

        bool active = first_query < tokens;
        int seen_by_all = causal ? min(tokens, first_query + 1) : tokens;
        int seen_by_any = causal ? min(tokens, first_query + STEP) : tokens;

        ForwardState<DIM> state = {};
        state.largest[0] = state.largest[1] = -INFINITY;
#pragma unroll 1
        for (int tile = 0; tile < tiles; tile++) {
            int first_key = tile * KEY_TILE<DIM>;
            if (round == 0 && tile > 0) {
                // Of a resident head, the later tiles and the next queries may still be under way.
                wait_for_copies(RESIDENT ? tiles - tile : 0);
                __syncthreads();
            }
            // Into the half that the whole block has left by now.
            if (!RESIDENT && tile + 1 < tiles) copy_tile(tile + 1);
            if (!active || first_key >= seen_by_any) continue;
            const bf16* key_tile = keys + place_of(tile);
            const bf16* value_tile = values + place_of(tile);
            if (first_key + KEY_TILE<DIM> <= seen_by_all) {
                forward_tile<DIM, false>(state, query, key_tile, value_tile, scale * LOG2_E, 0, 0, 0);
            } else {
                int steps = (seen_by_any - first_key + STEP - 1) / STEP;
                int limit = (causal ? first_query + lane_row() + 1 : tokens) - first_key;
                forward_tile<DIM, true>(state, query, key_tile, value_tile, scale * LOG2_E, steps, limit,
                                        causal ? 8 : 0);
            }
        }
        if (!active) continue;

        float inverse[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float total = state.total[half];
            total += __shfl_xor_sync(ALL_LANES, total, 1);
            total += __shfl_xor_sync(ALL_LANES, total, 2);
            inverse[half] = 1.f / total;
            int query = first_query + lane_row() + 8 * half;
            if (lane_pair() == 0 && query < tokens) {
                log_sum_exp[int64_t(blockIdx.x) * tokens + query] = state.largest[half] * scale + logf(total);
            }
        }
        bf16* head_out = out + sample * tokens * width + head * head_dim;
        store_rows<DIM>(head_out, width, first_query, tokens, head_dim, state.out, inverse);
    }
}
