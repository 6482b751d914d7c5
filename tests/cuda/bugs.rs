//! The net has no holes: each of these bugs, planted in a copy of the kernels, must be found. One that is not fails the test.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use perennial::check::{self, Size};
use perennial::ops::cuda::emulated::{Emulator, Flavour, Schedule};

use crate::{AMPERE, HOPPER, build, failures, root};

/// One change to one file.
pub(crate) struct Bug {
    /// The op whose checks must find it, and the .cu file that is compiled for that.
    op: &'static str,
    file: &'static str,
    find: &'static str,
    /// Which of the places that read so, from 0.
    place: usize,
    replace: &'static str,
    /// Where the kernel with the bug runs.
    capability: (u32, u32),
}

pub(crate) const fn bug(op: &'static str, file: &'static str, find: &'static str, replace: &'static str) -> Bug {
    Bug { op, file, find, place: 0, replace, capability: HOPPER }
}

/// A barrier, a wait or a fence removed, a stride or a place mistaken.
const BUGS: &[Bug] = &[
    bug(
        "contrastive",
        "contrastive_tile.cuh",
        "ptx::cp_async_wait<STAGES - 2>();\n            __syncthreads();",
        "ptx::cp_async_wait<STAGES - 2>();",
    ),
    bug(
        "contrastive",
        "contrastive_tile.cuh",
        "ptx::cp_async_wait<STAGES - 2>();",
        "ptx::cp_async_wait<STAGES - 1>();",
    ),
    bug(
        "contrastive",
        "contrastive_sums.cuh",
        "store_similarities(shared->similarity, similarities);\n        __syncthreads();",
        "store_similarities(shared->similarity, similarities);",
    ),
    bug("contrastive", "contrastive_sums.cuh", "if (writes && tile >= text_tiles)", "if (writes && tile > text_tiles)"),
    bug(
        "contrastive",
        "contrastive_backward.cuh",
        "excludes_one);\n        __syncthreads();\n        multiply_gradient",
        "excludes_one);\n        multiply_gradient",
    ),
    bug("contrastive", "contrastive_backward.cuh", "row + (lane >> 3 & 1) * 8", "row + (lane >> 4) * 8"),
    bug("contrastive", "contrastive.cu", "earlier_slots += k < number;", "earlier_slots += k > number;"),
    bug(
        "contrastive",
        "contrastive.cu",
        "block_sum(derivative, derivative_partial)",
        "block_sum(derivative, loss_partial)",
    ),
    bug("group_dro", "group_dro.cu", "log_total - log_seen);\n    __syncthreads();", "log_total - log_seen);"),
    bug("group_dro", "group_dro.cu", "block_sum(total, sample_partial[1])", "block_sum(total, sample_partial[0])"),
    bug(
        "group_dro",
        "group_dro.cu",
        "if (class_of[sample] == uint32_t(own)) {",
        "if (class_of[sample] <= uint32_t(own)) {",
    ),
    bug(
        "linear",
        "linear_wgmma.cuh",
        "            ptx::mbarrier_wait(&shared->empty[ring.stage], ring.parity ^ 1, int(Barrier::EMPTY));\n",
        "",
    ),
    bug(
        "linear",
        "linear_wgmma.cuh",
        "            ptx::mbarrier_wait(&shared->full[ring.stage], ring.parity, int(Barrier::FULL));\n            ptx::wgmma_fence();",
        "            ptx::wgmma_fence();",
    ),
    bug("linear", "linear_wgmma.cuh", "ptx::wgmma_wait<1>(acc);", "ptx::wgmma_wait<2>(acc);"),
    bug(
        "linear",
        "linear_wgmma.cuh",
        "            ptx::mbarrier_wait(&shared->drained, parity, int(Barrier::DRAINED));\n",
        "",
    ),
    bug(
        "linear",
        "linear_wgmma.cuh",
        "[&] { ptx::mbarrier_wait(&shared->staged, parity, int(Barrier::STAGED)); }",
        "[&] {}",
    ),
    bug("linear", "linear_wgmma.cuh", "WEIGHT ? 11 : 8", "8"),
    bug(
        "linear",
        "linear_wgmma.cuh",
        "            ptx::bar_sync(1, EPILOGUE_THREADS);  // before the next unit's sums\n",
        "",
    ),
    bug("linear", "linear_wgmma.cuh", "B_N_MAJOR ? 128 : 2)", "B_N_MAJOR ? 64 : 2)"),
    bug(
        "linear",
        "linear_epilogue.cuh",
        "sum[column % 8][first + column / 8]",
        "sum[column / 8 % 8][first + column / 8]",
    ),
    bug("linear", "linear_epilogue.cuh", "(top + index % height)", "(index % height)"),
    bug("linear", "linear_epilogue.cuh", "fetch(next, 1);", "fetch(next, 0);"),
    bug("linear", "linear_epilogue.cuh", "unstage(odd, 1);", "unstage(odd, 0);"),
    bug(
        "linear",
        "linear_epilogue.cuh",
        "bool inside = row + i * ROWS < height",
        "bool inside = row + i * ROWS <= height",
    ),
    bug("linear", "linear_epilogue.cuh", "-0.458776951f", "-0.358776951f"),
    bug(
        "linear",
        "linear.cu",
        "linear_wgmma_kn_128_gelu_backward, true, 128, GELU_B",
        "linear_wgmma_kn_128_gelu_backward, true, 128, QUICK_GELU_B",
    ),
    Bug {
        capability: AMPERE,
        ..bug("linear", "linear_mma.cuh", "        __syncthreads();\n        load(block", "        load(block")
    },
    Bug {
        capability: AMPERE,
        ..bug("linear", "linear_mma.cuh", "cp_async_wait<MMA_STAGES - 2>", "cp_async_wait<MMA_STAGES - 1>")
    },
    Bug {
        capability: AMPERE,
        ..bug("linear", "linear_mma.cuh", "        __syncthreads();  // the last tiles have been read\n", "")
    },
    Bug { capability: AMPERE, ..bug("linear", "linear.cu", "    __syncthreads();\n    int at", "    int at") },
    Bug { capability: AMPERE, ..bug("linear", "linear.cu", "from[split * (count / 4) + i]", "from[i]") },
    bug("l2_normalize", "l2_normalize.cu", "k += 32 * N", "k += 64 * N"),
    bug("l2_normalize", "l2_normalize.cu", "blockIdx.x * 4 + warp_id()", "blockIdx.x * 8 + warp_id()"),
    bug("memory", "memory.cu", "ptx::cvt_bf16x2(value, value)", "ptx::cvt_bf16x2(value, 0.f)"),
    bug("layer_norm", "layer_norm.cu", "row += gridDim.x * WARPS", "row += WARPS"),
    bug("layer_norm", "layer_norm.cu", "block_sum(sum_gn, partial_gn)", "block_sum(sum_gn, partial_g)"),
    bug("layer_norm", "layer_norm.cu", "total[which][column / 4 % 2]", "total[which][0]"),
    bug("layer_norm", "layer_norm.cu", "total += sums[warp][lane_id()]", "total += sums[lane_id()][warp]"),
    bug("position_embed", "position_embed.cu", "(row - image - 1)", "(row - image)"),
    bug("position_embed", "positions.cuh", "min(from + per_slice, samples)", "samples"),
    bug("position_embed", "positions.cuh", "if (sample + j < to) {", "{"),
    bug("token_embed", "token_embed.cu", "        }\n        __syncwarp();\n    }\n}", "        }\n    }\n}"),
    bug(
        "token_embed",
        "token_embed.cu",
        "        __syncwarp();\n    }\n    __syncthreads();",
        "        __syncwarp();\n    }",
    ),
    bug(
        "token_embed",
        "token_embed.cu",
        "        next += count;\n    }\n    __syncthreads();",
        "        next += count;\n    }",
    ),
    bug("token_embed", "token_embed.cu", "to[begin + __popc(before)]", "to[begin + __popc(same) - 1 - __popc(before)]"),
    bug("token_embed", "token_embed.cu", "i <= following", "i < following"),
    bug("patch_embed", "patch_embed.cu", "int byte = 3 * i + channel", "int byte = 3 * i + 2 - channel"),
    bug("patch_embed", "patch_embed.cu", "byte % PIXELS * 8", "byte % (PIXELS > 2 ? 4 : PIXELS) * 8"),
    bug("patch_embed", "patch_embed.cu", "    __syncthreads();\n\n    Levels", "    Levels"),
    bug("adamw", "adamw.cu", "if (!(length < INFINITY)) return;", "if (length == INFINITY) return;"),
    bug("adamw", "adamw.cu", "if (bounds[middle] <= place)", "if (bounds[middle] < place)"),
    bug("adamw", "adamw.cu", "fminf(1.f, max_norm", "fmaxf(1.f, max_norm"),
    bug(
        "attention",
        "attention_forward.cuh",
        "wait_for_copies(RESIDENT ? tiles - tile : 0);",
        "wait_for_copies(RESIDENT ? tiles - tile + 1 : 1);",
    ),
    bug(
        "attention",
        "attention_backward.cuh",
        "ptx::cp_async_wait<0>();\n    __syncthreads();\n\n    // From here on",
        "__syncthreads();\n\n    // From here on",
    ),
    bug(
        "attention",
        "attention_backward.cuh",
        "query + (i & 1) < lane_row() + 8 * (i >> 1)",
        "query + (i & 1) < lane_row()",
    ),
    bug(
        "attention",
        "attention_forward.cuh",
        "wait_for_copies(RESIDENT ? tiles - tile : 0);\n                __syncthreads();",
        "wait_for_copies(RESIDENT ? tiles - tile : 0);",
    ),
    bug(
        "attention",
        "attention_backward.cuh",
        "        __syncthreads();\n        if (first >= tokens) continue;",
        "        if (first >= tokens) continue;",
    ),
    bug(
        "attention",
        "attention_backward.cuh",
        "        __syncthreads();\n        if (tile == 0) {",
        "        if (tile == 0) {",
    ),
    bug(
        "similarity",
        "similarity.cu",
        "ptx::cp_async_wait<0>();\n        __syncthreads();",
        "ptx::cp_async_wait<0>();",
    ),
    bug("similarity", "similarity.cu", "ptx::cp_async_wait<0>();", "ptx::cp_async_wait<1>();"),
    bug("similarity", "similarity.cu", "store_values(lower + at, rest);", "store_values(lower + at, {0.f, 0.f});"),
    bug("similarity", "similarity.cu", "if (adds) load_values", "if (adds && N > 1) load_values"),
    bug("similarity", "similarity.cu", "row < height ? width - column : 0", "width - column"),
    bug("similarity", "common.cuh", "8 * (lane_id() & 1) + 4 * (lane_id() >> 1 & 1)", "4 * (lane_id() & 3)"),
    bug("supcon", "supcon.cu", "if (other == row) continue;", ""),
    Bug { place: 1, ..bug("supcon", "supcon.cu", "if (other == row) continue;", "") },
    bug("supcon", "supcon.cu", "block_sum(count, partial[1])", "block_sum(count, partial[0])"),
    bug("supcon", "supcon.cu", "if (class_of[other] == own) gradient", "if (class_of[other] >= own) gradient"),
    bug("distillation", "distillation.cu", "exclude_self && column == row", "exclude_self && column == warp_id()"),
    bug("distillation", "distillation.cu", "all_rows = block_sum(sum, partial)", "all_rows = warp_sum(sum)"),
    bug("distillation", "distillation.cu", "total += count * ptx::ex2", "total += ptx::ex2"),
    bug("distillation", "distillation.cu", "sum = block_sum(sum, partial);\n    if", "sum = warp_sum(sum);\n    if"),
    bug("pool", "pool.cu", "token == (position", "sample == (position"),
    bug("cross_entropy", "cross_entropy.cu", "block_sum(sum, partial[1])", "block_sum(sum, partial[0])"),
    bug("cross_entropy", "cross_entropy.cu", "block_sum(along, partial[4])", "block_sum(along, partial[3])"),
    bug("cross_entropy", "cross_entropy.cu", "if (k + i < row.columns) sum += expf", "sum += expf"),
    bug("cross_entropy", "cross_entropy.cu", "(row.add ? row.columns : row.stride)", "row.columns"),
    Bug { place: 1, ..bug("cross_entropy", "cross_entropy.cu", "(row.add ? row.columns : row.stride)", "row.columns") },
    bug("cross_entropy", "cross_entropy.cu", "(add ? *loss : 0.f)", "(add ? 0.f : *loss)"),
    bug("relu", "relu.cu", "x < 0.f ? 0.f : x", "fmaxf(x, 0.f)"),
    bug("relu", "relu.cu", "value[j] > 0.f", "value[j] >= 0.f"),
    bug("arena", "arena.cu", "(mean > limit ? limit : mean)", "fminf(mean, limit)"),
    bug("arena", "arena.cu", "partials[blockIdx.x] = sum", "partials[0] = sum"),
    Bug { place: 1, ..bug("arena", "arena.cu", "quads * 4 + thread", "quads + thread") },
];

/// The line in which a bug is planted is all that a reader needs.
fn describe(bug: &Bug) -> String {
    format!("{}: '{}' (number {}) as '{}'", bug.file, bug.find.trim(), bug.place, bug.replace.trim())
}

/// Copies the kernels into `folder` with the bug in them.
pub(crate) fn plant(bug: &Bug, folder: &std::path::Path) {
    fs::create_dir_all(folder).unwrap();
    for entry in fs::read_dir(root().join("kernels")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.join(bug.file);
    let source = fs::read_to_string(&path).unwrap();
    let at = source.match_indices(bug.find).nth(bug.place);
    let (at, _) =
        at.unwrap_or_else(|| panic!("{}: the kernel no longer reads so; plant the bug elsewhere", describe(bug)));
    let changed = [&source[..at], bug.replace, &source[at + bug.find.len()..]].concat();
    fs::write(path, changed).unwrap();
}

/// The files whose kernels an op's checks launch.
fn files(op: &str) -> String {
    match op {
        "memory" => "memory pool".to_string(),
        op => format!("{op} memory"),
    }
}

/// What finds the bug: the race checker first, as it needs one run; then plain runs in schedules that bring bugs out.
fn found_by(bug: &Bug, worker: usize) -> Option<String> {
    // The emulator itself is compiled once for each worker.
    let folder = root().join("target/emulator/bugs").join(worker.to_string());
    let kernels = folder.join("kernels");
    plant(bug, &kernels);
    let schedules = [Schedule::LATE, Schedule::EARLY].into_iter().chain((0..8).map(Schedule::random));
    for flavour in [Flavour::Race, Flavour::Plain] {
        let library = build(flavour, &kernels, Some(&files(bug.op)), &folder.join(format!("{flavour:?}")));
        let emulator = Emulator::of(&library, bug.capability);
        for schedule in schedules.clone() {
            let emulator = Emulator { schedule, ..emulator.clone() };
            let failed = failures(emulator, Size::Smallest, Some(bug.op), check::ops);
            if let Some(failure) = failed.first() {
                let text = failure.failure.as_deref().unwrap_or_default();
                assert!(!text.contains("no such kernel"), "{}: {text}: files() leaves out a file", describe(bug));
                return Some(format!(
                    "{flavour:?}, {}: {}",
                    failure.shape,
                    failure.failure.as_deref().unwrap_or_default()
                ));
            }
        }
    }
    None
}

#[test]
fn every_planted_bug_is_found() {
    let (next, survivors) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (next, survivors) = (&next, &survivors);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(bug) = BUGS.get(number) else { break };
                    match found_by(bug, worker) {
                        Some(finding) => println!("{}\n    {finding}", describe(bug)),
                        None => survivors.lock().unwrap().push(describe(bug)),
                    }
                }
            });
        }
    });
    let survivors = survivors.into_inner().unwrap();
    assert!(survivors.is_empty(), "{} planted bugs survive:\n{}", survivors.len(), survivors.join("\n"));
}

/// Every family of kernels has at least one.
#[test]
fn every_op_has_a_planted_bug() {
    let ops: Vec<&str> = BUGS.iter().map(|bug| bug.op).collect();
    for op in [
        "adamw",
        "arena",
        "attention",
        "contrastive",
        "cross_entropy",
        "distillation",
        "group_dro",
        "l2_normalize",
        "layer_norm",
        "linear",
        "patch_embed",
        "pool",
        "relu",
        "similarity",
        "supcon",
    ] {
        assert!(ops.contains(&op), "no bug is planted in {op}");
    }
    for op in ["memory", "position_embed", "token_embed"] {
        assert!(ops.contains(&op), "no bug is planted in {op}");
    }
}
