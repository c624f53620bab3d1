//! Task groups, asyncio's and anyio's: the task that each belongs to.

use std::sync::Arc;

use crate::python::memory::addresses::AddressMap;
use crate::python::objects::{Kind, Reader, TypeInfo};

/// The class, of both libraries.
pub(super) const GROUP: &str = "TaskGroup";
/// An attribute of asyncio's; anyio's has a scope instead, which a task has entered.
const PARENT_TASK: &str = "_parent_task";
pub(super) const SCOPE_OF_GROUP: &str = "cancel_scope";
pub(super) const HOST_OF_SCOPE: &str = "_host_task";

pub(super) fn is_group(info: &TypeInfo) -> bool {
    info.kind == Kind::Other && &*info.name == GROUP
}

/// The task that each group belongs to.
pub(super) fn parents(reader: &mut Reader<'_>, groups: &[u64]) -> AddressMap<u64> {
    if groups.is_empty() {
        return AddressMap::default();
    }
    let found = reader.attributes(groups, &[PARENT_TASK, SCOPE_OF_GROUP]);
    let mut parents = AddressMap::default();
    let mut scopes = Vec::new();
    for (group, found) in groups.iter().zip(found) {
        match found.as_deref() {
            Some([Some(parent), _]) => parents.extend([(*group, *parent)]),
            Some([None, Some(scope)]) => scopes.push((*group, *scope)),
            _ => {}
        }
    }
    let addresses: Vec<u64> = scopes.iter().map(|(_, scope)| *scope).collect();
    let hosts = reader.members(&addresses, &[HOST_OF_SCOPE]);
    let hosts: Vec<(u64, u64)> = scopes
        .into_iter()
        .zip(hosts)
        .filter_map(|((group, _), found)| Some((group, found?[0]?)))
        .collect();
    // It has none before it is entered.
    let kinds = reader.types_of(&hosts.iter().map(|(_, host)| *host).collect::<Vec<_>>());
    let is_one =
        |info: &Option<Arc<TypeInfo>>| info.as_ref().is_some_and(|info| &*info.name != "NoneType");
    let entered = hosts.into_iter().zip(kinds);
    parents.extend(
        entered
            .filter(|(_, info)| is_one(info))
            .map(|(host, _)| host),
    );
    parents
}
