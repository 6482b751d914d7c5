// The supervised contrastive loss over a matrix of similarities, in three launches: the loss of each anchor; the mean,
// which needs to know how many anchors have positives; the gradient, which needs that too.
//
// Anchor i, with its positives P_i = {p != i: class_p = class_i} and all others a != i:
//   loss_i = log sum over a of exp(s_ia / tau) - 1/|P_i| sum over p of s_ip / tau
// Samples that are no anchors, and anchors without positives, have none. Exponents are of 2 and relative to the row's
// largest: `scale` = log2(e) / tau.
#include "common.cuh"

constexpr float LN_2 = 0.6931471805599453f;

// What one anchor's row comes to.
struct alignas(16) Anchor {
    // The largest similarity to another sample, and log2 of the sum of 2^(scale (s - largest)).
    float largest, log_total;
    // 1 / |P_i|, or 0 where the anchor does not count.
    float share;
    float loss;
};

// s [samples, samples], class_of [samples], is_anchor [samples] or null for all; anchors [samples], written.
//
// A warp a row, 8 rows a block, no shared memory; lane l takes columns l, l + 32, ... in two sweeps.
// Floor: s once; the second sweep finds its row in a cache.
KERNEL(256, 2, supcon_rows, const float* s, const uint32_t* class_of, NULLABLE const uint32_t* is_anchor, Anchor* anchors,
       int samples, float scale) {
    int row = blockIdx.x * 8 + warp_id();
    if (row >= samples) return;
    Anchor anchor = {};
    if (!is_anchor || is_anchor[row]) {
        s += int64_t(row) * samples;
        uint32_t own = class_of[row];
        float largest = -INFINITY, positives = 0.f;
#pragma unroll 4
        for (int other = lane_id(); other < samples; other += 32) {
            if (other == row) continue;
            largest = fmaxf(largest, s[other]);
            positives += class_of[other] == own ? 1.f : 0.f;
        }
        largest = warp_max(largest);
        positives = warp_sum(positives);
        if (positives > 0.f) {
            float total = 0.f, pull = 0.f;
#pragma unroll 4
            for (int other = lane_id(); other < samples; other += 32) {
                if (other == row) continue;
                float exponent = (s[other] - largest) * scale;
                total += ptx::ex2(exponent);
                pull += class_of[other] == own ? exponent : 0.f;
            }
            anchor.largest = largest;
            anchor.log_total = log2f(warp_sum(total));
            anchor.share = 1.f / positives;
            anchor.loss = (anchor.log_total - warp_sum(pull) * anchor.share) * LN_2;
        }
    }
    if (lane_id() == 0) anchors[row] = anchor;
}

// loss [1] = the mean of the anchors' losses, and inverse_count [1] = 1 / the number of anchors with positives; 0 and 1
// where there is none.
//
// One block of 1024 threads, which meet in the block sums. Floor: 16 bytes a sample.
KERNEL(1024, 1, supcon_loss, const Anchor* anchors, float* loss, float* inverse_count, int samples) {
    STATIC_SHARED(float[2][32], partial);
    float sum = 0.f, count = 0.f;
    for (int i = threadIdx.x; i < samples; i += blockDim.x) {
        sum += anchors[i].loss;
        count += anchors[i].share > 0.f ? 1.f : 0.f;
    }
    sum = block_sum(sum, partial[0]);
    count = fmaxf(block_sum(count, partial[1]), 1.f);
    if (threadIdx.x == 0) {
        *loss = sum / count;
        *inverse_count = 1.f / count;
    }
}

// ds_ia = (2^(scale (s_ia - largest_i) - log_total_i) - [a in P_i] / |P_i|) / (tau count); 0 on the diagonal and where
// the row does not count. ds [samples, samples], the rest as above; inverse_tau = 1 / tau.
//
// A warp a row, 8 rows a block, no shared memory. Floor: s and ds once.
KERNEL(256, 2, supcon_gradient, const float* s, const uint32_t* class_of, const Anchor* anchors,
       const float* inverse_count, float* ds, int samples, float scale, float inverse_tau) {
    int row = blockIdx.x * 8 + warp_id();
    if (row >= samples) return;
    Anchor anchor = anchors[row];
    uint32_t own = class_of[row];
    float factor = inverse_tau * *inverse_count;
    s += int64_t(row) * samples;
    ds += int64_t(row) * samples;
#pragma unroll 4
    for (int other = lane_id(); other < samples; other += 32) {
        float gradient = 0.f;
        if (anchor.share > 0.f && other != row) {
            gradient = ptx::ex2((s[other] - anchor.largest) * scale - anchor.log_total);
            if (class_of[other] == own) gradient -= anchor.share;
        }
        ds[other] = gradient * factor;
    }
}
