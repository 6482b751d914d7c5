// Class weights by group distributionally robust optimisation (docs/methods.md, section 2, equations (5)-(6); our reading).
#include "common.cuh"

// Moves the average loss of every class of the batch (`class_loss` is NaN for a class never seen):
//   v_k = (1 - gamma1) v_k + gamma1 mean over samples of class k of tau (log u1_i + log u2_i), or the mean on a first visit
//   counted_k = how many samples entered the mean; infinite log u, of anchors without negatives, do not
// class_of, log_u1, log_u2 [samples], log_scale [1] = ln(1/tau), class_loss, counted [classes].
//
// A warp a class: 256 threads, ceil(classes / 8) blocks, no shared memory. Lane l takes samples l, l + 32, ...
// Floor: samples x classes comparisons, 4 bytes a sample from the first-level cache for each class.
KERNEL(256, 2, group_dro_class_loss, const uint32_t* class_of, const float* log_u1, const float* log_u2,
       const float* log_scale, float* class_loss, float* counted, int samples, int classes, float gamma1) {
    int own = blockIdx.x * 8 + warp_id();
    if (own >= classes) return;
    float tau = expf(-*log_scale);
    float sum = 0.f, count = 0.f;
#pragma unroll 4
    for (int sample = lane_id(); sample < samples; sample += 32) {
        if (class_of[sample] == uint32_t(own)) {
            float loss = (log_u1[sample] + log_u2[sample]) * tau;
            // False for NaN as well.
            if (fabsf(loss) < INFINITY) {
                sum += loss;
                count += 1.f;
            }
        }
    }
    sum = warp_sum(sum);
    count = warp_sum(count);
    if (lane_id() != 0) return;
    counted[own] = count;
    if (count > 0.f) {
        float mean = sum / count, old = class_loss[own];
        class_loss[own] = isnan(old) ? mean : (1.f - gamma1) * old + gamma1 * mean;
    }
}

// log of the sum of exp(class_loss / lambda) over the classes that have been seen (counted = null), or over those with a count
// in the batch; each times its share where that is not null, and then only those that have one. `classes_in` is how many they are.
// The same bits in every thread; `partial` as in block_sum.
DEVICE float log_sum_of_classes(const float* class_loss, const float* counted, const float* share, int classes,
                                float inverse_lambda, float* classes_in, float (&partial)[3][32]) {
    auto is_in = [&](int k) {
        return !isnan(class_loss[k]) && (!counted || counted[k] > 0.f) && (!share || share[k] > 0.f);
    };
    float largest = -INFINITY;
    for (int k = threadIdx.x; k < classes; k += blockDim.x) {
        if (is_in(k)) largest = fmaxf(largest, class_loss[k]);
    }
    largest = block_max(largest, partial[0]);
    float total = 0.f, count = 0.f;
    for (int k = threadIdx.x; k < classes; k += blockDim.x) {
        if (is_in(k)) {
            float term = expf((class_loss[k] - largest) * inverse_lambda);
            total += share ? share[k] * term : term;
            count += 1.f;
        }
    }
    total = block_sum(total, partial[1]);
    *classes_in = block_sum(count, partial[2]);
    return total > 0.f ? largest * inverse_lambda + logf(total) : -INFINITY;
}

// How group_dro_weights comes from classes to samples: Weighting in src/ops/group_dro.rs.
enum class Weighting : int { PRIOR, BATCH, SAMPLE };

// The weights of classes and samples, from v = class_loss (NaN: not seen, weight 0) with K classes seen:
//   log s = log of ((1 - gamma2) s + gamma2 mean over the batch's classes of exp(v_k / lambda)), the mean itself where it is
//           NaN, as it was when the batch has no class; only if `stochastic`
//   p_k = exp(v_k / lambda) / sum over the seen classes, or if `stochastic` exp(v_k / lambda) / (K s); if `weighting` is
//         SAMPLE, share_k exp(v_k / lambda) / sum
//   weight_i = p_{y_i} / (samples share_{y_i})              PRIOR
//              exp(v_{y_i} / lambda) / (counted_{y_i} Z)    BATCH
//              exp(v_{y_i} / lambda) / Z                    SAMPLE; both with Z so that the weights sum to 1, and 0 where log u
//                                                           is infinite
//   objective = lambda log (1/K) sum of exp(v_k / lambda), if SAMPLE lambda log sum of share_k exp(v_k / lambda)
// class_of, log_u1, log_u2, weight [samples]; class_loss, counted (of group_dro_class_loss), share, class_weight [classes];
// log_normalizer, objective [1].
//
// One block of 1024 threads, which meet in the block sums, and once between writing the class weights and reading them.
// Floor: 20 bytes a class, 16 bytes a sample (24 by the batch's own weights); one block takes a few microseconds for thousands of
// either.
KERNEL(1024, 1, group_dro_weights, const uint32_t* class_of, const float* log_u1, const float* log_u2,
       const float* class_loss, const float* counted, const float* share, float* log_normalizer, float* class_weight,
       float* weight, float* objective, int samples, int classes, float lambda, float gamma2, Flag stochastic,
       Weighting weighting) {
    STATIC_SHARED(float[3][32], partial);
    STATIC_SHARED(float[3][32], batch_partial);
    STATIC_SHARED(float, shared_divisor);
    float inverse_lambda = 1.f / lambda;
    float seen;
    const float* of_pool = weighting == Weighting::SAMPLE ? share : nullptr;
    float log_total = log_sum_of_classes(class_loss, nullptr, of_pool, classes, inverse_lambda, &seen, partial);
    float log_seen = logf(fmaxf(seen, 1.f));
    float log_divisor = log_total;
    if (stochastic) {
        float present;
        float log_sum =
            log_sum_of_classes(class_loss, counted, nullptr, classes, inverse_lambda, &present, batch_partial);
        if (threadIdx.x == 0) {
            float log_s = *log_normalizer;
            if (present > 0.f) {
                float log_mean = log_sum - logf(present);
                if (isnan(log_s)) {
                    log_s = log_mean;
                } else {
                    float a = log1pf(-gamma2) + log_s, b = logf(gamma2) + log_mean;
                    float largest = fmaxf(a, b);
                    log_s = largest == -INFINITY ? largest : largest + log1pf(expf(fminf(a, b) - largest));
                }
                *log_normalizer = log_s;
            }
            shared_divisor = log_s + log_seen;
        }
        __syncthreads();
        log_divisor = shared_divisor;
    }
    for (int k = threadIdx.x; k < classes; k += blockDim.x) {
        float of_class = isnan(class_loss[k]) ? 0.f : expf(class_loss[k] * inverse_lambda - log_divisor);
        class_weight[k] = of_pool ? of_pool[k] * of_class : of_class;
    }
    if (threadIdx.x == 0) *objective = lambda * (of_pool ? log_total : log_total - log_seen);
    __syncthreads();
    if (weighting == Weighting::PRIOR) {
        for (int sample = threadIdx.x; sample < samples; sample += blockDim.x) {
            int own = class_of[sample];
            weight[sample] = class_weight[own] / (float(samples) * share[own]);
        }
        return;
    }
    STATIC_SHARED(float[2][32], sample_partial);
    // False for NaN as well.
    auto is_in = [&](int sample) { return fabsf(log_u1[sample] + log_u2[sample]) < INFINITY; };
    float largest = -INFINITY;
    for (int sample = threadIdx.x; sample < samples; sample += blockDim.x) {
        if (is_in(sample)) largest = fmaxf(largest, class_loss[class_of[sample]]);
    }
    largest = block_max(largest, sample_partial[0]);
    auto term = [&](int sample) {
        int own = class_of[sample];
        float of_class = weighting == Weighting::BATCH ? counted[own] : 1.f;
        return is_in(sample) ? expf((class_loss[own] - largest) * inverse_lambda) / of_class : 0.f;
    };
    float total = 0.f;
    for (int sample = threadIdx.x; sample < samples; sample += blockDim.x) total += term(sample);
    total = block_sum(total, sample_partial[1]);
    for (int sample = threadIdx.x; sample < samples; sample += blockDim.x) {
        weight[sample] = total > 0.f ? term(sample) / total : 0.f;
    }
}
