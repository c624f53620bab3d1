//! The records and map values, one file each.

mod batch;
pub mod cause;
mod config;
mod exact;
mod exec;
mod exit;
pub mod fault;
mod fork;
mod hist;
mod ledger;
mod namespace;
mod pools;
mod process;
mod python;
mod record;
mod sample;
mod self_test;
mod slice;
mod slots;
mod socket;
mod syscall;

pub use self::{
    batch::{BATCH_RECORDS, Batch, BatchHeader},
    config::KernelConfig,
    exact::{
        Exact, ExactCall, ExactKey, ExactName, ExactPlace, ExactRow, ExactTask, ExactTaskKey,
        FOLDED_BYTES, NAME_BYTES, PLACE_DEPTHS,
    },
    exec::ExecRecord,
    exit::{ExitRecord, exit_flags},
    fork::ForkRecord,
    hist::{
        HIST_BUCKETS, HIST_MIN_SHIFT, Hist, HistBuckets, HistHead, hist_bucket, hist_lower_bound,
    },
    ledger::{Hists, Ledger, STACK_INTERVAL_NS, STACK_WINDOW_NS, ledger_flags, state},
    namespace::Namespace,
    pools::{ExactFutures, FailedKey, PoolKey, PoolRow},
    process::{GIL_SIZE, MAX_GILS, Process},
    python::{FRAME_BYTES, NO_OFFSET, OWNER_GENERATOR, OWNER_NO_CODE, Python},
    record::{Record, RecordHead, Tagged, record_kind},
    sample::{
        SAMPLE_AREA, SAMPLE_FRAMES, SAMPLE_STARTS, SampleBatch, SampleFrame, SampleHead,
        sample_flags,
    },
    self_test::SelfTest,
    slice::{SliceRecord, slice_flags},
    slots::{
        Control, FREE_NUMBERS, HIST_CHUNKS, HISTS_PER_CHUNK, LEDGER_CHUNKS, LEDGERS_PER_CHUNK,
        MAX_SLOTS, SLOTS_PER_PAGE, SlotPage,
    },
    socket::{
        RESPONSE_BYTES, SOCKET_AREA, SOCKET_BYTES, SOCKET_STARTS, Socket, SocketBatch,
        SocketConfig, SocketHead, SocketTest, port_flags, socket_flags, socket_kind, socket_state,
        syscall_buffer,
    },
    syscall::{MAX_SYSCALLS, SyscallEntry, syscall_flags},
};

/// Bumped whenever a record or map value changes its shape or meaning.
pub const WIRE_VERSION: u16 = 3;
