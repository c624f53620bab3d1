//! Where asyncio lists its tasks: linked lists, sets, and weak sets.

use crate::python::memory::addresses::AddressMap;
use crate::python::memory::{Memory, ReadError, word};
use crate::python::objects::Reader;

/// How often a list that changes while it is walked is walked again.
const MAX_LIST_TRIES: usize = 5;
/// Nodes are read with their neighbours: objects of one size lie together in pools of this many
/// bytes (`POOL_SIZE` of `pycore_obmalloc.h`).
const POOL_BYTES: u64 = 1 << 14;
/// Pools are read as long as each has so many nodes on average, after the first ones.
const NODES_PER_POOL: usize = 4;
const FIRST_POOLS: usize = 64;
/// Pools that are kept at a time.
const MAX_POOLS: usize = 512;

/// A list of tasks: the address of its head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListHead(pub(crate) u64);

/// The tasks in linked lists, at most one more than `limit`.
pub(crate) fn linked(
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
            pools_read: 0,
            told: 0,
        };
        found.clear();
        let walked = heads
            .iter()
            .try_for_each(|head| nodes.walk(*head, node, limit, &mut found));
        match walked {
            Ok(()) => return found,
            Err(ReadError::Gone) => break,
            // What was found is there.
            Err(ReadError::Over) if reader.is_over() => return found,
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
    pools_read: usize,
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
        let is_worth_it = self.pools_read <= self.told / NODES_PER_POOL + FIRST_POOLS;
        if !self.pools.contains_key(&pool) && is_worth_it {
            if self.pools.len() >= MAX_POOLS {
                self.pools.clear();
            }
            self.pools_read += 1;
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
pub(crate) fn in_set(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::layout::{Version, row};
    use crate::python::objects::synthetic::Segments;

    const HEAD: u64 = 0x10_0000;

    /// What a walk finds in a list whose nodes are at these addresses, each with the one before.
    fn walked(nodes: &[(u64, u64)], limit: usize) -> (Vec<u64>, u64) {
        let layout = row(Version {
            major: 3,
            minor: 14,
        })
        .unwrap();
        let node = u64::from(layout.walk.task.node.unwrap());
        let mut memory = Segments::default();
        let first = nodes.first().map_or(HEAD, |(address, _)| *address);
        memory.put_words(HEAD, &[first, 0]);
        for (index, (address, before)) in nodes.iter().enumerate() {
            let next = nodes.get(index + 1).map_or(HEAD, |(address, _)| *address);
            memory.put_words(*address, &[next, *before]);
        }
        let mut reader = Reader::new(&memory, layout.walk, 1 << 26);
        let found = linked(&mut reader, &memory, &[ListHead(HEAD)], limit);
        let nodes = found.iter().map(|task| task + node).collect();
        (nodes, reader.failed)
    }

    fn chained(addresses: &[u64]) -> Vec<(u64, u64)> {
        let before = std::iter::once(&HEAD).chain(addresses);
        addresses.iter().copied().zip(before.copied()).collect()
    }

    #[test]
    fn lists_are_walked_to_their_end_wherever_their_nodes_lie() {
        let close: Vec<u64> = (0..300).map(|index| 0x20_0000 + index * 192).collect();
        let apart: Vec<u64> = (0..300)
            .map(|index| 0x20_0000 + index * 0x10_0000)
            .collect();
        for addresses in [Vec::new(), close, apart] {
            let (found, failed) = walked(&chained(&addresses), 1000);
            assert_eq!((found, failed), (addresses, 0));
        }
    }

    #[test]
    fn a_list_ends_behind_the_limit() {
        let addresses: Vec<u64> = (0..50).map(|index| 0x20_0000 + index * 192).collect();
        let (found, failed) = walked(&chained(&addresses), 10);
        assert_eq!((found.len(), failed), (11, 0));
    }

    #[test]
    fn a_node_that_does_not_fit_the_one_before_is_a_failed_read() {
        let (_, failed) = walked(&[(0x20_0000, HEAD), (0x20_1000, 0x7777)], 10);
        assert_eq!(failed, 1);
    }
}
