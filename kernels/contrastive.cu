// One family of contrastive objectives (docs/methods.md, section 1), streamed in tiles of similarities S_ij = e_i . t_j.
//
// A text stands for as many samples as share it. Text anchors are samples: anchor i holds the text of sample i against all
// images. So a column of S serves all samples of one text, and the samples are put into order by text first.
//
// First pass:  contrastive_index, contrastive_positive, contrastive_sums, contrastive_averages.
// Second pass: contrastive_index, contrastive_records, then contrastive_image_gradient, contrastive_text_gradient (each
//              followed by contrastive_add_parts where the launch has several parts) and contrastive_loss.
//
// Nothing of size samples x texts is ever held. Every sum runs in a fixed order, so that the same batch gives the same bits.
#include "contrastive_backward.cuh"
#include "contrastive_sums.cuh"

DEVICE int sum_of_8_lanes(int value) {
#pragma unroll
    for (int offset = 4; offset; offset >>= 1) value += __shfl_xor_sync(ALL_LANES, value, offset);
    return value;
}

// Bits of `chain`: the next sample with the same slot (`samples` if there is none), and whether one came before.
constexpr uint32_t FOLLOWS = 0x80000000u;

// The order of the samples by text (then by number), who shares a text, and |N_i|:
//   place[i]          = number of samples k with (text_of[k], k) < (text_of[i], i)                 [samples]
//   texts[c]          = places of the samples of text c, and the key by which texts are excluded   [text_count]
//   log_negatives[i]  = ln |N_i|, 0 under ALL, where the sum is no mean; -infinity if empty        [samples]
//   chain[i]          = where else slot[i] occurs (above); only if `slot` is not null              [samples]
//
// 8 lanes a number, which is a sample and a text at once: each lane looks at every eighth sample. Counting needs no atomics
// and no scan, and 256 threads, ceil(max(samples, text_count) / 32) blocks, no shared memory. Floor: samples x max(samples,
// text_count) x about 6 integer operations, all from the first-level cache.
KERNEL(256, 4, contrastive_index, const uint32_t* text_of, const uint32_t* class_of_text, NULLABLE const uint32_t* slot,
       uint32_t* place_of, TextRecord* texts, float* log_negatives, NULLABLE uint32_t* chain, int samples, int text_count,
       Negatives negatives) {
    int number = blockIdx.x * 32 + (threadIdx.x >> 3);
    bool is_sample = number < samples, is_text = number < text_count;
    int own_text = is_sample ? int(text_of[number]) : -1;
    bool by_class = negatives == Negatives::OTHER_CLASSES;
    uint32_t own_class = by_class && is_sample ? class_of_text[own_text] : 0;
    uint32_t own_slot = slot && is_sample ? slot[number] : 0;
    int before = 0, first = 0, shared = 0, same_class = 0, earlier_slots = 0, next_slot = samples;
#pragma unroll 4
    for (int k = threadIdx.x & 7; k < samples; k += 8) {
        int text = text_of[k];
        before += text < own_text || (text == own_text && k < number);
        first += text < number;
        shared += text == number;
        if (by_class) same_class += class_of_text[text] == own_class;
        if (slot && slot[k] == own_slot) {
            earlier_slots += k < number;
            next_slot = k > number && k < next_slot ? k : next_slot;
        }
    }
    before = sum_of_8_lanes(before);
    first = sum_of_8_lanes(first);
    shared = sum_of_8_lanes(shared);
    same_class = sum_of_8_lanes(same_class);
    earlier_slots = sum_of_8_lanes(earlier_slots);
#pragma unroll
    for (int offset = 4; offset; offset >>= 1) {
        int other = __shfl_xor_sync(ALL_LANES, next_slot, offset);
        next_slot = other < next_slot ? other : next_slot;
    }
    if ((threadIdx.x & 7) != 0) return;
    if (is_sample) {
        place_of[number] = before;
        int count = negatives == Negatives::ALL ? 1 : negatives == Negatives::OTHERS ? samples - 1 : samples - same_class;
        log_negatives[number] = logf(float(count));
        if (slot) chain[number] = uint32_t(next_slot) | (earlier_slots ? FOLLOWS : 0);
    }
    if (is_text) {
        TextRecord record;
        record.first = first;
        record.end = first + shared;
        record.key = by_class ? class_of_text[number] : number;
        record.unused = 0;
        texts[number] = record;
    }
}

// What sample i is excluded by as image, and which texts its own image anchor excludes.
DEVICE ImageRecord image_record(float positive, int sample, uint32_t text, const uint32_t* class_of_text, Negatives negatives) {
    ImageRecord record;
    record.positive = positive;
    record.text = text;
    uint32_t class_key = negatives == Negatives::OTHER_CLASSES ? class_of_text[text] : 0;
    record.key = negatives == Negatives::OTHER_CLASSES ? class_key : uint32_t(sample);
    record.refused = negatives == Negatives::OTHER_CLASSES ? class_key : negatives == Negatives::OTHERS ? text : NOBODY;
    return record;
}

// The sum over one row of a[k] b[k], by a warp: the same bits in every lane.
template <int N>
DEVICE float row_dot(const bf16* a, const bf16* b, int width) {
    float sum = 0.f;
#pragma unroll 4
    for (int k = lane_id() * N; k < width; k += 32 * N) {
        float left[N], right[N];
        load_values(a + k, left);
        load_values(b + k, right);
#pragma unroll
        for (int i = 0; i < N; i++) sum += left[i] * right[i];
    }
    return warp_sum(sum);
}

// positive[i] = S_ii, the similarity of sample i and its own text, and what contrastive_sums reads of each sample:
// images [samples] in the samples' own order, anchors [samples] in the order by text.
//
// A warp a sample: 256 threads, ceil(samples / 8) blocks, no shared memory. Floor: 4 width bytes a sample.
KERNEL(256, 4, contrastive_positive, const bf16* image, const bf16* text, const uint32_t* text_of,
       const uint32_t* class_of_text, const uint32_t* place_of, float* positive, ImageRecord* images,
       TextAnchor* anchors, int samples, int width, Negatives negatives) {
    int sample = blockIdx.x * 8 + warp_id();
    if (sample >= samples) return;
    uint32_t own_text = text_of[sample];
    const bf16* left = image + int64_t(sample) * width;
    const bf16* right = text + int64_t(own_text) * width;
    float similarity = width % 8 == 0 ? row_dot<8>(left, right, width) : row_dot<1>(left, right, width);
    if (lane_id() != 0) return;
    positive[sample] = similarity;
    ImageRecord record = image_record(similarity, sample, own_text, class_of_text, negatives);
    images[sample] = record;
    TextAnchor anchor;
    anchor.positive = similarity;
    anchor.text = own_text;
    anchor.refused = negatives == Negatives::ALL ? NOBODY : record.key;
    anchor.unused = 0;
    anchors[place_of[sample]] = anchor;
}

// The sums of both directions in one sweep over the similarities. For image anchor i and each slice of texts, and for text
// anchor i and each group of images (m the largest exponent h_ij log2(e) / tau among the negatives of the part):
//   sum over j of n_j 2^(h_ij log2(e)/tau - m) {1, phi', h_ij log2(e)/tau}, and m.
// image_sums [slices, samples] in the samples' order, text_sums [groups, samples] in the order by text.
//
// Grid (slices, groups), 256 threads. Block (s, g) holds text tiles [s T, (s + 1) T) against image tiles [g I, (g + 1) I),
// T = text_tiles_per_slice, I = image_tiles_per_group, images in the outer loop. The sums of its image anchors stay in
// registers along a row of tiles; those of its text anchors, of which one tile can have any number, are kept in text_sums
// between tiles: each is read and written by the same thread of the same block.
//
// Shared memory, dynamic: the ring (48 KiB), a tile of similarities in f32 (17 KiB), the records of its texts and images
// (2 KiB). Who waits for whom: TileStream::multiply holds one __syncthreads for each step of 64 columns, the first of which
// also ends the reading of the tile before; one more lies between writing the tile of similarities and reading it.
// Floor: 2 x samples x texts x width operations on the tensor cores; each operand is read samples / 64 or texts / 64 times,
// from the second-level cache; 2 exponentials a pair, or 1 + n for a text of n samples.
KERNEL(256, 2, contrastive_sums, const bf16* image, const bf16* text, const TextRecord* texts, const ImageRecord* images,
       const TextAnchor* anchors, const float* log_scale, Sums* image_sums, Sums* text_sums, int samples, int text_count,
       int width, Negatives negatives, Flag hinge, float margin, int text_tiles_per_slice, int image_tiles_per_group) {
    sweep(image, text, texts, images, anchors, surrogate(hinge, margin, log_scale), image_sums, text_sums, samples,
          text_count, width, negatives == Negatives::OTHERS, text_tiles_per_slice, image_tiles_per_group);
}

// Adds up the parts of each anchor in order, moves its average, and writes what the second pass needs (all [samples]):
//   log g = logsumexp of h / tau - ln |N|;  log u = log((1 - gamma) u + gamma g), or log g on a first visit (NaN), with
//   gamma >= 1 and without averages;  slope, height = the means of phi' and h / tau under exp(h / tau) / (|N| u).
// An anchor without negatives gets log u = +infinity, slope and height 0, and its average stays as it was.
//
// Grid (ceil(samples / 256), 2): y = 0 for image anchors, whose `parts` lie in the samples' order, y = 1 for text anchors, in
// the order by text. 256 threads, a thread an anchor. Samples with the same slot are taken in order by the thread of the first
// of them. gamma [1] is read here, so that it may change from step to step. Floor: 16 bytes a part and anchor.
KERNEL(256, 2, contrastive_averages, const Sums* image_sums, const Sums* text_sums, const uint32_t* place_of,
       const float* log_negatives, NULLABLE const uint32_t* slot, NULLABLE const uint32_t* chain,
       NULLABLE const float* gamma, NULLABLE float* average1, NULLABLE float* average2, float* log_u1, float* log_u2,
       float* slope1, float* slope2, float* height1, float* height2, int samples, int slices, int groups) {
    int sample = blockIdx.x * 256 + threadIdx.x;
    if (sample >= samples || (slot && chain[sample] & FOLLOWS)) return;
    bool is_image = blockIdx.y == 0;
    const Sums* sums = is_image ? image_sums : text_sums;
    int parts = is_image ? slices : groups;
    float* average = is_image ? average1 : average2;
    float* log_u = is_image ? log_u1 : log_u2;
    float* slope = is_image ? slope1 : slope2;
    float* height = is_image ? height1 : height2;
    do {
        int at = is_image ? sample : int(place_of[sample]);
        Sums total = sums[at];
#pragma unroll 4
        for (int part = 1; part < parts; part++) total = merged(total, sums[int64_t(part) * samples + at]);
        if (total.total == 0.f) {
            log_u[sample] = INFINITY;
            slope[sample] = height[sample] = 0.f;
        } else {
            float log_g = LN_2 * (total.largest + log2f(total.total)) - log_negatives[sample];
            float now = log_g;
            if (slot) {
                now = moved_average(average[slot[sample]], log_g, *gamma);
                average[slot[sample]] = now;
            }
            log_u[sample] = now;
            // The sums were taken under the weights of g; those of u differ by the factor g / u.
            float ratio = expf(log_g - now) / total.total;
            slope[sample] = total.slope * ratio;
            height[sample] = total.height * ratio * LN_2;
        }
        sample = slot ? int(chain[sample] & ~FOLLOWS) : samples;
    } while (sample < samples);
}

// What the gradient kernels read of each sample: images and image_weights [samples] in the samples' order, anchors [samples]
// in the order by text. a_i times 1/tau (1 with times_tau) is the factor of all weights of sample i.
//
// A thread a sample: 256 threads, ceil(samples / 256) blocks. Floor: about 100 bytes a sample.
KERNEL(256, 2, contrastive_records, const uint32_t* text_of, const uint32_t* class_of_text, const uint32_t* place_of,
       const float* log_negatives, const float* positive, const float* log_u1, const float* log_u2, const float* slope1,
       const float* slope2, const float* weight, const float* log_scale, ImageRecord* images, ImageWeight* image_weights,
       WeightedAnchor* anchors, int samples, Negatives negatives, Flag times_tau) {
    int sample = blockIdx.x * 256 + threadIdx.x;
    if (sample >= samples) return;
    ImageRecord record = image_record(positive[sample], sample, text_of[sample], class_of_text, negatives);
    images[sample] = record;
    float factor = weight[sample] * (times_tau ? 1.f : expf(*log_scale));
    float log_count = log_negatives[sample];
    // No negatives: infinite, and ln |N| is -infinity.
    bool empty1 = log_u1[sample] == INFINITY, empty2 = log_u2[sample] == INFINITY;
    ImageWeight image;
    image.offset = empty1 ? 0.f : (log_count + log_u1[sample]) * LOG2_E;
    image.factor = empty1 ? 0.f : factor;
    image.pull = factor * (slope1[sample] + slope2[sample]);
    image.unused = 0.f;
    image_weights[sample] = image;
    WeightedAnchor anchor;
    anchor.positive = record.positive;
    anchor.offset = empty2 ? 0.f : (log_count + log_u2[sample]) * LOG2_E;
    anchor.factor = empty2 ? 0.f : factor;
    anchor.refused = negatives == Negatives::ALL ? NOBODY : record.key;
    anchors[place_of[sample]] = anchor;
}

// dimage = dS t, for tiles of dS made on the way:
//   dS_jc = a_j w1_jc n_c phi'(S_jc - S_jj) + sum over samples i of text c of a_i w2_ij phi'(S_jc - S_ii)
//           - [c is the text of j] a_j (slope1_j + slope2_j)                                   (times 1/tau without times_tau)
// with w = exp(h / tau - ln |N| - log u), 0 for what is no negative.
//
// Grid (ceil(samples / 64), ceil(width / 256), parts), 256 threads. Block (b, d, p) holds columns 256 d to + 255 of the
// gradients of images 64 b to + 63, in registers (64 f32 a thread), and goes through text tiles [p T, (p + 1) T) with
// T = tiles_per_part. A wider slice of columns would save products S, which are made anew for every slice, but would leave
// one block for each multiprocessor, and few blocks for small batches.
// Rounding: a tile of dS goes into its second product as the sum of two bf16, 16 bits in all, so that what cancels in it (the
// last term against the rest) is not lost; the second product then takes two instructions for one.
// One part writes `gradient`; several write parts [parts, samples, width] in f32, and contrastive_add_parts sums them.
//
// Shared memory, dynamic: the ring (48 KiB), 64 rows of the slice of the other side (32 KiB), a tile of similarities in f32,
// which dS replaces row by row (17 KiB), records (2 KiB). Who waits for whom: TileStream::multiply as in contrastive_sums; one
// __syncthreads after the tile of similarities is written, one after dS has replaced it; the first in the next tile's multiply
// ends the reading of dS.
// Floor: (2 ceil(width / 256) + 4) x samples x texts x width operations on the tensor cores, and the exponentials of
// contrastive_sums for each slice.
#define CONTRASTIVE_GRADIENT(name, for_text)                                                                               \
    KERNEL(256, 2, name, const bf16* image, const bf16* text, const TextRecord* texts, const ImageRecord* images,          \
           const ImageWeight* image_weights, const WeightedAnchor* anchors, const float* log_scale, bf16* gradient,        \
           NULLABLE float* parts, int samples, int text_count, int width, Negatives negatives, Flag hinge, float margin,   \
           int tiles_per_part) {                                                                                           \
        gradient_rows<for_text>(image, text, texts, images, image_weights, anchors, surrogate(hinge, margin, log_scale),   \
                                gradient, parts, samples, text_count, width, negatives == Negatives::OTHERS,               \
                                tiles_per_part);                                                                           \
    }
CONTRASTIVE_GRADIENT(contrastive_image_gradient, false)

// dtext = dS^T e: the same with the sides exchanged. Grid (ceil(text_count / 64), ceil(width / 256), parts).
CONTRASTIVE_GRADIENT(contrastive_text_gradient, true)

// sum[k] = parts[0, k] + parts[1, k] + ..., in order; parts [part_count, count].
//
// 8 values a thread where count is a multiple of 8, else 1: 256 threads, ceil(count / 8 / 256) or ceil(count / 256) blocks.
// Floor: 4 part_count + 2 bytes a value.
KERNEL(256, 2, contrastive_add_parts, const float* parts, bf16* sum, int64_t count, int part_count) {
    int64_t thread = int64_t(blockIdx.x) * 256 + threadIdx.x;
    if (count % 8 == 0) {
        if (thread * 8 >= count) return;
        float total[8] = {};
#pragma unroll 4
        for (int part = 0; part < part_count; part++) {
            const float* from = parts + part * count + thread * 8;
            Quad low = load4(from), high = load4(from + 4);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                total[i] += low.value[i];
                total[i + 4] += high.value[i];
            }
        }
        store_values(sum + thread * 8, total);
    } else {
        if (thread >= count) return;
        float total = 0.f;
        for (int part = 0; part < part_count; part++) total += parts[part * count + thread];
        sum[thread] = bf16(total);
    }
}

// loss [1] and its derivative by ln(1/tau) [1], over both directions d and samples with negatives:
//   with times_tau    sum of a tau log u_d,    - sum of a tau (log u_d - height_d)
//   without           sum of a log u_d,          sum of a height_d
//
// One block of 1024 threads: thread t takes samples t, t + 1024, ... Floor: 20 bytes a sample.
KERNEL(1024, 1, contrastive_loss, const float* weight, const float* log_u1, const float* log_u2, const float* height1,
       const float* height2, const float* log_scale, float* loss, float* dlog_scale, int samples, Flag times_tau) {
    STATIC_SHARED(float[32], loss_partial);
    STATIC_SHARED(float[32], derivative_partial);
    float tau = expf(-*log_scale);
    float loss_sum = 0.f, derivative = 0.f;
#pragma unroll 4
    for (int sample = threadIdx.x; sample < samples; sample += 1024) {
        float a = weight[sample] * (times_tau ? tau : 1.f);
        float log_u[2] = {log_u1[sample], log_u2[sample]};
        float height[2] = {height1[sample], height2[sample]};
#pragma unroll
        for (int side = 0; side < 2; side++) {
            if (log_u[side] != INFINITY) {
                loss_sum += a * log_u[side];
                derivative += a * (times_tau ? height[side] - log_u[side] : height[side]);
            }
        }
    }
    loss_sum = block_sum(loss_sum, loss_partial);
    derivative = block_sum(derivative, derivative_partial);
    if (threadIdx.x == 0) {
        *loss = loss_sum;
        *dlog_scale = derivative;
    }
}
