//! What a process publishes of itself for readers outside: OpenTelemetry's process context (OTEP 4719, version 2).
//!
//! A header lies in a mapping that is called `OTEL_CTX`, and points to resource attributes in protobuf. Only the
//! attributes that are named here are kept.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use prost::Message;

use super::{environ, file, maps};

/// Name of the mapping, and the header's first bytes.
const SIGNATURE: [u8; 8] = *b"OTEL_CTX";
const NAMES: [&str; 3] = [
    "/memfd:OTEL_CTX",
    "[anon_shmem:OTEL_CTX]",
    "[anon:OTEL_CTX]",
];
/// The layout that is published.
const VERSION: u32 = 2;
/// Signature, version, payload size, instant of publication, and address of the payload.
const HEADER: usize = 32;
/// Longer payloads are not read.
const MAX_PAYLOAD: u32 = 64 << 10;
/// Bytes of the list of mappings that are read.
const MAX_MAPS: u64 = 4 << 20;
/// A process that writes while it is read is read again so often.
const TRIES: usize = 3;

/// `opentelemetry.proto.common.v1.AnyValue`, of which only texts are read.
#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, optional, tag = "1")]
    string_value: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

/// `opentelemetry.proto.resource.v1.Resource`
#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

/// `opentelemetry.proto.processcontext.v1development.ProcessContext`
#[derive(Clone, PartialEq, Message)]
struct ProcessContext {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
}

/// What is kept of the attributes that a process publishes. Its name is not: it comes some seconds after the start,
/// when it is decided which service the process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Published {
    /// `service.version`
    pub(super) version: Option<String>,
    /// `deployment.environment.name`, else `deployment.environment`.
    pub(super) environment: Option<String>,
}

impl Published {
    fn of(resource: &Resource) -> Self {
        let attribute = |wanted: &str| {
            let mut attributes = resource.attributes.iter();
            let attribute = attributes.find(|attribute| attribute.key == wanted)?;
            environ::name(attribute.value.as_ref()?.string_value.as_ref()?)
        };
        Self {
            version: attribute("service.version"),
            environment: attribute("deployment.environment.name")
                .or_else(|| attribute("deployment.environment")),
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What a process publishes; nothing where that cannot be read.
pub(super) fn published(dir: impl AsFd) -> Published {
    read(&dir).unwrap_or_default()
}

fn read(dir: &impl AsFd) -> Option<Published> {
    let maps = file::bytes(dir, "maps", MAX_MAPS).ok()?;
    let at = maps::parse(&String::from_utf8_lossy(&maps))
        .into_iter()
        .find(|mapping| {
            let path = mapping.path.strip_suffix(" (deleted)");
            mapping.readable && NAMES.contains(&path.unwrap_or(&mapping.path))
        })?
        .start;
    let memory = File::from(file::open(dir, "mem").ok()?);
    (0..TRIES)
        .find_map(|_| payload(&memory, at))
        .map(|bytes| parse(&bytes))
}

/// The payload behind a header; `None`: there is none, or it is being written.
fn payload(memory: &File, at: u64) -> Option<Vec<u8>> {
    let header = || -> Option<[u8; HEADER]> {
        let mut header = [0; HEADER];
        memory.read_exact_at(&mut header, at).ok()?;
        Some(header)
    };
    let before = header()?;
    let word = |from: usize| before[from..from + 4].try_into().map(u32::from_ne_bytes);
    let long = |from: usize| before[from..from + 8].try_into().map(u64::from_ne_bytes);
    let (version, size) = (word(8).ok()?, word(12).ok()?);
    let (published, address) = (long(16).ok()?, long(24).ok()?);
    let is_whole = before[..8] == SIGNATURE && version == VERSION && published != 0;
    if !is_whole || size > MAX_PAYLOAD {
        return None;
    }
    let mut payload = vec![0; size as usize];
    memory.read_exact_at(&mut payload, address).ok()?;
    (header()? == before).then_some(payload)
}

/// The payload is a context with a resource; the first publishers wrote the resource alone.
fn parse(payload: &[u8]) -> Published {
    let context = ProcessContext::decode(payload).ok();
    let resource = context.and_then(|context| context.resource);
    let told = resource.map(|resource| Published::of(&resource));
    match told.filter(|told| !told.is_nothing()) {
        Some(told) => told,
        None => Resource::decode(payload)
            .map(|resource| Published::of(&resource))
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

    use super::*;
    use crate::testing::Rng;

    /// `service.version` is `shop`, `service.namespace` 7, which is no text, and `host.name` `a`.
    const RESOURCE: &[u8] = b"\
        \x0a\x19\x0a\x0fservice.version\x12\x06\x0a\x04shop\
        \x0a\x17\x0a\x11service.namespace\x12\x02\x18\x07\
        \x0a\x10\x0a\x09host.name\x12\x03\x0a\x01a";

    fn told() -> Published {
        Published {
            version: Some("shop".to_owned()),
            ..Published::default()
        }
    }

    fn own() -> OwnedFd {
        file::open(file::CWD, "/proc/self").expect("this process")
    }

    /// This process publishes what the specification says, and reads it as another one would.
    #[test]
    fn what_is_published_is_read() {
        assert!(published(own()).is_nothing());
        let mut context = vec![0x0a, RESOURCE.len() as u8];
        context.extend(RESOURCE);
        let size = 4_096;
        let memfd = memfd_create("OTEL_CTX", MemfdFlags::CLOEXEC).expect("a file");
        ftruncate(&memfd, size as u64).expect("room");
        // SAFETY: a fresh mapping of a file of this size.
        let at = unsafe {
            mmap(
                std::ptr::null_mut(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
                &memfd,
                0,
            )
        };
        let at = at.expect("a mapping").cast::<u8>();
        drop(memfd);
        let write = |offset: usize, bytes: &[u8]| {
            // SAFETY: inside of the mapping.
            unsafe {
                at.add(offset)
                    .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
            };
        };
        for payload in [RESOURCE, &context] {
            write(8, &VERSION.to_ne_bytes());
            write(12, &(payload.len() as u32).to_ne_bytes());
            write(16, &1u64.to_ne_bytes());
            write(24, &(payload.as_ptr() as u64).to_ne_bytes());
            write(0, &SIGNATURE);
            assert_eq!(published(own()), told());
        }
        // It is being written, longer than anything, of another version, nowhere, another thing.
        for (offset, bytes) in [
            (16, 0u64.to_ne_bytes().to_vec()),
            (12, u32::MAX.to_ne_bytes().to_vec()),
            (8, 9u32.to_ne_bytes().to_vec()),
            (24, 8u64.to_ne_bytes().to_vec()),
            (0, b"OTEL_CTY".to_vec()),
        ] {
            let mut kept = [0; 8];
            // SAFETY: inside of the mapping.
            unsafe {
                at.add(offset)
                    .copy_to_nonoverlapping(kept.as_mut_ptr(), bytes.len())
            };
            write(offset, &bytes);
            assert!(published(own()).is_nothing(), "{offset}");
            write(offset, &kept[..bytes.len()]);
            assert_eq!(published(own()), told());
        }
        // SAFETY: mapped above, and used no more.
        unsafe { munmap(at.cast(), size) }.expect("unmapped");
    }

    #[test]
    fn little_is_kept_of_much() {
        let attribute = |key: &str, text: &str| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue {
                string_value: Some(text.to_owned()),
            }),
        };
        let mut attributes: Vec<_> = (0..5_000).map(|_| attribute("k", "")).collect();
        attributes.push(attribute("service.version", &"x".repeat(10_000)));
        attributes.push(attribute("deployment.environment", "old"));
        let mut context = ProcessContext {
            resource: Some(Resource { attributes }),
        };
        let kept = parse(&context.encode_to_vec());
        assert_eq!(kept.version.map(|text| text.len()), Some(128));
        assert_eq!(kept.environment.as_deref(), Some("old"));
        let resource = context.resource.as_mut().expect("a resource");
        let newer = attribute("deployment.environment.name", "new");
        resource.attributes.push(newer);
        let kept = parse(&context.encode_to_vec());
        assert_eq!(kept.environment.as_deref(), Some("new"));
    }

    #[test]
    fn damaged_payloads_harm_nobody() {
        let mut rng = Rng::new(11);
        for _ in 0..20_000 {
            let mut payload = RESOURCE.to_vec();
            for _ in 0..=rng.below(3) {
                let at = rng.below(payload.len());
                payload[at] = rng.next() as u8;
            }
            payload.truncate(1 + rng.below(payload.len()));
            let _ = parse(&payload);
        }
    }
}
