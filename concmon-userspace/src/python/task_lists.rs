//! Where asyncio lists its tasks: linked lists, sets, and weak sets.

use super::addresses::AddressMap;
use super::memory::{Memory, ReadError, word};
use super::object::Reader;

/// How often a list that changes while it is walked is walked again.
const MAX_LIST_TRIES: usize = 5;
/// Nodes are read with their neighbours: objects of one size lie together in pools of this many
/// bytes (`POOL_SIZE` of `pycore_obmalloc.h`).
const POOL_BYTES: u64 = 1 << 14;
/// Pools are read as long as each has so many nodes on average, after the first ones.
const NODES_PER_POOL: usize = 4;
const FIRST_POOLS: usize = 64;

/// A list of tasks: the address of its head.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListHead(pub(super) u64);

/// The tasks in linked lists, at most one more than `limit`.
pub(super) fn linked(
    reader: &mut Reader<'_>,
    memory: &dyn Memory,
    heads: &[ListHead],
    limit: usize,
) -> Vec<u64> {
    let Some(node) = reader.walk.task.node else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for _ in 0..MAX_LIST_TRIES {
        let mut nodes = Nodes {
            reader,
            memory,
            pools: AddressMap::default(),
            told: 0,
        };
        found.clear();
        let walked = heads
            .iter()
            .try_for_each(|head| nodes.walk(*head, node, limit, &mut found));
        match walked {
            Ok(()) => return found,
            Err(ReadError::Gone) => break,
            Err(_) => {}
        }
    }
    reader.failed += 1;
    reader.limits.insert(
        "tasks".to_owned(),
        "the list of tasks changed faster than it could be read".to_owned(),
    );
    found
}

/// The nodes of lists, as they are read during one walk.
struct Nodes<'n, 'r> {
    reader: &'n mut Reader<'r>,
    memory: &'n dyn Memory,
    /// What was read of pools, by their addresses.
    pools: AddressMap<Vec<u8>>,
    /// Nodes that were found in pools.
    told: usize,
}

impl Nodes<'_, '_> {
    fn walk(
        &mut self,
        head: ListHead,
        node_offset: u32,
        limit: usize,
        found: &mut Vec<u64>,
    ) -> Result<(), ReadError> {
        let mut from = head.0;
        let (mut node, _) = self.links(head.0)?;
        // A head that is all zero belongs to a thread that has not used asyncio.
        while node != 0 && node != head.0 && found.len() <= limit {
            let (next, previous) = self.links(node)?;
            if previous != from || next == 0 {
                return Err(ReadError::Torn {
                    what: "list of tasks",
                    address: node,
                });
            }
            found.push(node.wrapping_sub(u64::from(node_offset)));
            from = node;
            node = next;
        }
        Ok(())
    }

    /// The next node and the one before.
    fn links(&mut self, address: u64) -> Result<(u64, u64), ReadError> {
        let pool = address & !(POOL_BYTES - 1);
        let is_worth_it = self.pools.len() * NODES_PER_POOL <= self.told + FIRST_POOLS;
        if !self.pools.contains_key(&pool) && is_worth_it {
            let bytes = self.reader.prefix(pool, POOL_BYTES as usize);
            self.pools.insert(pool, bytes);
        }
        let in_pool = self.pools.get(&pool).and_then(|bytes| {
            let offset = (address - pool) as u32;
            Some((word(bytes, offset)?, word(bytes, offset + 8)?))
        });
        if let Some(links) = in_pool {
            self.told += 1;
            return Ok(links);
        }
        let mut bytes = [0; 16];
        self.memory.read(address, &mut bytes)?;
        word(&bytes, 0)
            .zip(word(&bytes, 8))
            .ok_or(ReadError::Unmapped { address, len: 16 })
    }
}

/// The tasks in a set, or in a weak set when `weak`; one more than `limit` at most, which says
/// that there are more.
pub(super) fn in_set(
    reader: &mut Reader<'_>,
    set: u64,
    weak: bool,
    limit: usize,
) -> Option<Vec<u64>> {
    let most = limit.saturating_add(1);
    if !weak {
        let mut tasks = reader.set(set).ok()?;
        tasks.truncate(most);
        return Some(tasks);
    }
    let data = reader.attributes_of(set, &["data"])?[0]?;
    let mut references = reader.set(data).ok()?;
    references.truncate(most);
    Some(
        reader
            .referents(&references)
            .into_iter()
            .flatten()
            .collect(),
    )
}
