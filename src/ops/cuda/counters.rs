//! What kernels ask of the hardware, as the emulated GPU counts it: docs/emulator.md has the rules.

/// Names the counters once; their order and their names are those of `EmulatorWarpCounts` in `tests/emulator/interface.hpp`.
macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What warps were asked to do. Instructions are those of whole warps, whichever lanes take part; wavefronts are passes
        /// through shared memory, of which without bank conflicts there would be as many as `ideal` says.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(C)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            /// What is counted, in order.
            pub const NAMES: &[&str] = &[$(stringify!($name)),*];

            /// In the order of [`Counts::NAMES`].
            pub fn values(&self) -> [u64; Counts::NAMES.len()] {
                [$(self.$name),*]
            }

            /// Adds `other` to each.
            pub fn add(&mut self, other: &Counts) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counts! {
    /// Instructions that read global memory.
    global_loads,
    /// What their lanes ask for.
    global_load_bytes,
    /// Distinct sectors of 32 bytes, counted for each instruction.
    global_load_sectors,
    /// Instructions that write global memory.
    global_stores,
    /// What their lanes write.
    global_store_bytes,
    /// Distinct sectors of 32 bytes, counted for each instruction.
    global_store_sectors,
    /// Atomic instructions on global memory.
    global_atomics,
    /// Instructions that read shared memory, but for `matrix_loads`.
    shared_loads,
    /// Of them.
    shared_load_wavefronts,
    /// Of them.
    shared_load_ideal,
    /// Instructions that write shared memory.
    shared_stores,
    /// Of them.
    shared_store_wavefronts,
    /// Of them.
    shared_store_ideal,
    /// Atomic instructions on shared memory.
    shared_atomics,
    /// ldmatrix.
    matrix_loads,
    /// Of them.
    matrix_load_wavefronts,
    /// Of them: one for eight rows of 16 bytes.
    matrix_load_ideal,
    /// cp.async.
    copies,
    /// What they read from global memory.
    copy_bytes,
    /// Distinct sectors of 32 bytes, counted for each instruction.
    copy_sectors,
    /// Of what they write.
    copy_wavefronts,
    /// Of what they write.
    copy_ideal,
    /// Boxes that TMA loads.
    boxes,
    /// What it reads from global memory.
    box_bytes,
    /// Sectors of 32 bytes, of each row of a box.
    box_sectors,
    /// mma.m16n8k16.
    mmas,
    /// wgmma, four for each of a warpgroup's.
    wgmmas,
    /// Of both.
    multiply_adds,
    /// Bytes of shared memory that wgmma reads: A once, B once for the four warps.
    wgmma_operand_bytes,
    /// Instructions of the unit for special functions that `kernels/ptx.cuh` wraps: ex2, rcp.
    special,
    /// Exchanges between lanes.
    shuffles,
    /// Votes of lanes.
    votes,
    /// __syncwarp.
    warp_barriers,
    /// Warps that come to a __syncthreads or bar.sync.
    barrier_waits,
    /// Warps that come to a bar.arrive.
    barrier_arrivals,
    /// Waits for an mbarrier.
    mbarrier_waits,
    /// Arrivals at an mbarrier.
    mbarrier_arrivals,
}

impl Counts {
    /// Bytes that global memory is asked for and given.
    pub fn global_bytes(&self) -> u64 {
        self.global_load_bytes + self.copy_bytes + self.box_bytes + self.global_store_bytes
    }

    /// Sectors of 32 bytes that are read from global memory.
    pub fn sectors_read(&self) -> u64 {
        self.global_load_sectors + self.copy_sectors + self.box_sectors
    }

    /// Passes through shared memory of the warps' own instructions and of cp.async, not of TMA and wgmma.
    pub fn wavefronts(&self) -> u64 {
        self.shared_load_wavefronts + self.shared_store_wavefronts + self.matrix_load_wavefronts + self.copy_wavefronts
    }

    /// How many of them there would be without bank conflicts.
    pub fn ideal_wavefronts(&self) -> u64 {
        self.shared_load_ideal + self.shared_store_ideal + self.matrix_load_ideal + self.copy_ideal
    }
}

/// What warps are for, by what they do in a block, in the order of [`Counters::of`]: those with matrix products, of the others
/// those with asynchronous copies, and the rest.
pub const ROLES: [&str; 3] = ["products", "copies", "rest"];

/// What one kernel's launches came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Launches.
    pub launches: u64,
    /// Their blocks.
    pub blocks: u64,
    /// Of each of [`ROLES`], the blocks' warps.
    pub warps: [u64; ROLES.len()],
    /// Of each of [`ROLES`].
    pub of: [Counts; ROLES.len()],
}

impl Counters {
    /// Of all warps.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.of.iter().for_each(|counts| total.add(counts));
        total
    }
}

/// A kernel's name, and what its launches came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelCounters {
    /// As `kernels/` has it.
    pub kernel: String,
    /// Since they were last asked for.
    pub counters: Counters,
}
