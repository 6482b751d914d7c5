// Multi-head self-attention on packed q, k, v: for each sample and head, with d = head_dim,
//   S = Q K^T / sqrt(d), P = softmax of S's rows, out = P V, log_sum_exp of S's rows;
//   backward: dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(dO O)), dQ = dS K / sqrt(d), dK = dS^T Q / sqrt(d).
// qkv and dqkv [samples, tokens, 3 heads head_dim] bf16, q, k, v side by side and heads inside each; out and dout
// [samples, tokens, heads head_dim] bf16; log_sum_exp [samples, heads, tokens] f32. head_dim: a multiple of 16 up to
// DIM, the number in the kernel's name; rows are padded to it with zeros in shared memory. tokens: any number. causal:
// a token sees itself and earlier ones. scale = 1 / sqrt(head_dim).
//
// All products are bf16 with f32 sums on mma.sync; P and dS are rounded to bf16 before the products that they enter,
// sums and statistics are f32. No sum is shared between warps, so that results have the same bits in every run.
#include "attention_backward.cuh"
#include "attention_forward.cuh"

// Forward. Each warp goes over the keys with 16 queries, the softmax online over tiles of KEY_TILE keys: 48, or 32
// for DIM 128.
//   attention_forward_DIM: K and V of a head stay in shared memory and are read once.
//     Grid (samples heads); a block of `warps` warps does `rounds` times 16 warps queries, which is all of them;
//     key_rows = tokens rounded up to 16.
//   attention_forward_long_DIM: two tiles of keys at a time.
//     Grid (samples heads, query blocks); a block does 16 warps queries; key_rows = 2 KEY_TILE, rounds = 1.
// Block: 32 warps threads, 8 warps at most. Shared memory: (2 key_rows + 16 warps) DIM bf16.
// Barriers: __syncthreads after each wait for a tile of keys, which also says that the tile before it is done with; a
// warp reads and refills its own queries, between two __syncwarp.
// Floor for a head: (8 tokens d + 4 tokens) bytes, 4 tokens^2 d operations (half when causal): at 197 x 64 on an H100
// 34 ns of memory and about 20 ns of tensor cores.
#define FORWARD(name, DIM, RESIDENT, blocks)                                                                         \
    KERNEL(256, blocks, name, const bf16* qkv, bf16* out, float* log_sum_exp, int tokens, int heads, int head_dim,   \
           Flag causal, float scale, int key_rows, int rounds) {                                                      \
        forward<DIM, RESIDENT>(qkv, out, log_sum_exp, tokens, heads, head_dim, causal, scale, key_rows, rounds);     \
    }
FORWARD(attention_forward_64, 64, true, 2)
FORWARD(attention_forward_128, 128, true, 1)
FORWARD(attention_forward_long_64, 64, false, 2)
FORWARD(attention_forward_long_128, 128, false, 1)

// Backward. A warp goes over the queries with 16 keys, whose dK and dV it sums in registers, or over the keys with 16
// queries and their dQ. S and dP are computed in both: 7 products where 5 would do, but neither dS (86 KiB at 197
// tokens) nor sums of dQ need shared memory, so that two blocks fit on a multiprocessor and one computes while the
// other loads.
//   attention_backward_DIM: Q, K, V, dO of a head in shared memory.
//     Grid (samples heads), 32 warps threads (16 warps at most, 8 for DIM 128), which share the pieces of 16 keys or
//     queries. Shared memory: with rows = tokens rounded up to 16, 4 rows DIM bf16 and 8 rows bytes.
//     Barriers: one __syncthreads when all is loaded.
//   attention_backward_long_DIM: 96 keys (blockIdx.z = 0) or queries (1) a block, the others two tiles of 64 (32 for
//     DIM 128) at a time. Grid (samples heads, tokens / 96, 2), 192 threads.
//     Shared memory: (192 + 6 x 64) DIM bf16 and 8 x 96 bytes, or (192 + 6 x 32) 128 bf16 and 8 x 96 bytes.
//     Barriers: __syncthreads after each wait for a tile, as above, and one before its statistics are read.
// Floor for a head: (16 tokens d + 4 tokens) bytes, 10 tokens^2 d operations (half when causal; 14 are done): at 197 x
// 64 on an H100 67 ns of memory; what is done takes about 60 ns of tensor cores and 85 ns of ldmatrix.
#define BACKWARD(name, function, DIM, threads, blocks)                                                              \
    KERNEL(threads, blocks, name, const bf16* qkv, const bf16* out, const float* log_sum_exp, const bf16* dout,     \
           bf16* dqkv, int tokens, int heads, int head_dim, Flag causal, float scale) {                              \
        function<DIM>(qkv, out, log_sum_exp, dout, dqkv, tokens, heads, head_dim, causal, scale);                   \
    }
BACKWARD(attention_backward_64, backward, 64, 512, 1)
BACKWARD(attention_backward_128, backward, 128, 256, 1)
BACKWARD(attention_backward_long_64, backward_long, 64, 192, 2)
BACKWARD(attention_backward_long_128, backward_long, 128, 192, 1)
