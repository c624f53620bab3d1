//! The kernel programs as they are embedded, and how their maps and programs are taken hold of.

use std::os::fd::{AsFd as _, BorrowedFd};

use aya::{
    Ebpf, Pod,
    maps::{Map, MapData},
};
use concmon_ebpf::{
    Exact, ExactFutures, ExactKey, ExactPlace, ExactRow, ExactTask, ExactTaskKey, FailedKey, Hists,
    KernelConfig, Ledger, PoolKey, PoolRow, Process, Python, SelfTest, SocketConfig, SocketTest,
    SyscallEntry,
};

use super::{
    error::{LiveError, failed, failing},
    shared::SharedArray,
};

/// The kernel programs, compiled from `concmon-ebpf` and committed beside its source.
pub(super) const PREBUILT: &[u8] =
    aya::include_bytes_aligned!("../../../concmon-ebpf/prebuilt/concmon-ebpf.o");

/// A wire type as a key or a value of a map: `Pod` is a foreign trait.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Wire<T>(pub(super) T);

macro_rules! pods {
    ($($name:ident)*) => {
        $(
            // SAFETY: plain `repr(C)` integers without padding.
            unsafe impl Pod for Wire<$name> {}
        )*
    };
}

pods! {
    Exact ExactFutures ExactKey ExactPlace ExactRow ExactTask ExactTaskKey FailedKey
    Hists KernelConfig Ledger PoolKey PoolRow Process Python SelfTest SocketConfig SocketTest
    SyscallEntry
}

/// Takes a map out, opened as what it is.
pub(super) fn opened<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, LiveError>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    T::try_from(map(ebpf, name)?).map_err(failing!("opening a map"))
}

/// Takes an array out, mapped: `len` values of it.
pub(super) fn mapped<T>(
    ebpf: &mut Ebpf,
    name: &'static str,
    len: usize,
    what: &'static str,
) -> Result<SharedArray<T>, LiveError> {
    let map = map(ebpf, name)?;
    SharedArray::new(array_fd(&map)?, len).map_err(|error| failed(what)(&error))
}

fn map(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, LiveError> {
    ebpf.take_map(name).ok_or(LiveError::Failed {
        what: "the embedded kernel object lacks a map",
        cause: name.to_owned(),
    })
}

fn array_fd(map: &Map) -> Result<BorrowedFd<'_>, LiveError> {
    match map {
        Map::Array(data) => Ok(MapData::fd(data).as_fd()),
        _ => Err(LiveError::Failed {
            what: "the embedded kernel object has a map of another type",
            cause: "an array was expected".to_owned(),
        }),
    }
}

pub(super) fn program<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut T, LiveError>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program>,
{
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(LiveError::Failed {
            what: "the embedded kernel object lacks a program",
            cause: name.to_owned(),
        })
}
