//! What ends the wait of a suspended task in time: a statement with a deadline that it is in, or one that a task is in
//! whose end would cancel it.

use std::sync::Arc;

use super::holders::BOUND_SELF;
use super::managers;
use super::task_groups::{GROUP, HOST_OF_SCOPE, SCOPE_OF_GROUP};
use crate::python::memory::addresses::{AddressMap, AddressSet};
use crate::python::memory::{Batch, at, plausible};
use crate::python::objects::{Kind, Reader, TypeInfo};

/// Of asyncio and async_timeout.
const TIMEOUT: &str = "Timeout";
/// Of anyio: it may have no deadline, and be in others that have one.
const SCOPE: &str = "CancelScope";
const MEMBERS: &[&str] = &["_deadline", "_parent_scope", HOST_OF_SCOPE];
/// Scopes around scopes: one that has more around it counts as one with a deadline.
const MAX_AROUND: usize = 32;

/// What may end the wait of one task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deadline {
    /// It is in a statement that has one, or it is not known whether it is.
    pub(crate) is_set: bool,
    /// The tasks that have entered the scopes that it is in: who cancels them cancels it.
    pub(crate) hosts: Vec<u64>,
}

/// A scope that was read.
struct Scope {
    /// It has no deadline, and it is known what is around it.
    is_open: bool,
    parent: Option<u64>,
    host: Option<u64>,
}

/// What each suspended coroutine is in.
pub(crate) fn of_coroutines(reader: &mut Reader<'_>, coroutines: &[u64]) -> Vec<Deadline> {
    let frames = managers::kept(reader, coroutines);
    if reader.is_over() {
        let unread = Deadline {
            is_set: true,
            ..Deadline::default()
        };
        return vec![unread; coroutines.len()];
    }
    let words = frames.all.iter().flat_map(|frame| &frame.words);
    let all: AddressSet = words.copied().collect();
    let all: Vec<u64> = all
        .into_iter()
        .filter(|word| plausible(*word) && word % 8 == 0)
        .collect();
    let kinds = reader.types_of(&all);
    let is_method = |info: &TypeInfo| matches!(info.kind, Kind::Method | Kind::Builtin);
    // What each word of a frame stands for: the object, or what the method is bound to.
    let mut objects: AddressMap<(u64, Arc<TypeInfo>)> = AddressMap::default();
    let mut methods = Vec::new();
    for (object, info) in all.into_iter().zip(kinds) {
        match info {
            Some(info) if is_method(&info) => methods.push(object),
            Some(info) => objects.extend([(object, (object, info))]),
            None => {}
        }
    }
    let mut batch = Batch::new();
    for method in &methods {
        batch.push(at(*method, BOUND_SELF), 8);
    }
    reader.fetch(&mut batch);
    let bound = batch.words();
    let kinds = reader.types_of(&bound);
    let bound = methods.into_iter().zip(bound.into_iter().zip(kinds));
    objects.extend(bound.filter_map(|(method, (object, info))| Some((method, (object, info?)))));
    let named = |name: &str| -> Vec<(u64, u64)> {
        let named = objects.iter().filter(|(_, (_, info))| &*info.name == name);
        named.map(|(word, (object, _))| (*word, *object)).collect()
    };
    let timeouts: AddressSet = named(TIMEOUT).into_iter().map(|(word, _)| word).collect();
    let mut entered: AddressMap<u64> = named(SCOPE).into_iter().collect();
    let groups = named(GROUP);
    let addresses: Vec<u64> = groups.iter().map(|(_, group)| *group).collect();
    let of_groups = reader.members(&addresses, &[SCOPE_OF_GROUP]);
    entered.extend(
        groups
            .into_iter()
            .zip(of_groups)
            .filter_map(|((word, _), found)| {
                let scope = found?.pop()??;
                Some((word, scope))
            }),
    );
    let scopes = scopes(reader, entered.values().copied().collect());
    let mut found = vec![Deadline::default(); coroutines.len()];
    // What was not read may have a time.
    for slot in &frames.cut {
        found[*slot].is_set = true;
    }
    for frame in &frames.all {
        let found = &mut found[frame.coroutine];
        for word in &frame.words {
            found.is_set |= timeouts.contains(word);
            if let Some(scope) = entered.get(word) {
                found.add(*scope, &scopes);
            }
        }
    }
    found
}

impl Deadline {
    /// It is in this scope, and in those around it.
    fn add(&mut self, scope: u64, scopes: &AddressMap<Scope>) {
        let mut next = Some(scope);
        for _ in 0..=MAX_AROUND {
            let Some(scope) = next else {
                return;
            };
            let Some(known) = scopes.get(&scope).filter(|scope| scope.is_open) else {
                break;
            };
            self.hosts
                .extend(known.host.filter(|host| !self.hosts.contains(host)));
            next = known.parent;
        }
        self.is_set = true;
    }
}

/// These scopes, and those around them.
fn scopes(reader: &mut Reader<'_>, mut front: AddressSet) -> AddressMap<Scope> {
    let mut scopes = AddressMap::default();
    for _ in 0..=MAX_AROUND {
        if front.is_empty() || reader.is_over() {
            break;
        }
        let addresses: Vec<u64> = front.drain().collect();
        let members = reader.members(&addresses, MEMBERS);
        for (address, members) in addresses.into_iter().zip(members) {
            let scope = members.and_then(|members| scope(reader, &members));
            let scope = scope.unwrap_or(Scope {
                is_open: false,
                parent: None,
                host: None,
            });
            front.extend(scope.parent);
            scopes.insert(address, scope);
        }
        front.retain(|scope| !scopes.contains_key(scope));
    }
    scopes
}

fn scope(reader: &mut Reader<'_>, members: &[Option<u64>]) -> Option<Scope> {
    let [deadline, parent, host] = members else {
        return None;
    };
    let (parent, host) = ((*parent)?, (*host)?);
    let deadline = reader.read_number((*deadline)?)?;
    let kinds = reader.types_of(&[parent, host]);
    let [Some(of_parent), Some(of_host)] = &*kinds else {
        return None;
    };
    let is_outermost = &*of_parent.name == "NoneType";
    Some(Scope {
        is_open: deadline == f64::INFINITY && (is_outermost || &*of_parent.name == SCOPE),
        parent: Some(parent).filter(|_| !is_outermost),
        host: Some(host).filter(|_| of_host.kind == Kind::Task),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scopes_around_a_scope_count_too() {
        let scope = |is_open: bool, parent: Option<u64>, host: u64| Scope {
            is_open,
            parent,
            host: Some(host),
        };
        let of = |scopes: Vec<(u64, Scope)>| {
            let mut found = Deadline::default();
            found.add(1, &scopes.into_iter().collect());
            (found.is_set, found.hosts)
        };
        assert_eq!(of(vec![(1, scope(true, None, 7))]), (false, vec![7]));
        let around = |last: Scope| vec![(1, scope(true, Some(2), 7)), (2, last)];
        assert_eq!(of(around(scope(true, None, 8))), (false, vec![7, 8]));
        assert_eq!(of(around(scope(true, None, 7))), (false, vec![7]));
        // One has a deadline, or could not be read, or there is no end.
        assert!(of(around(scope(false, None, 8))).0);
        assert!(of(vec![(1, scope(true, Some(2), 7))]).0);
        assert!(of(around(scope(true, Some(1), 8))).0);
        assert!(of(Vec::new()).0);
    }
}
