//! Values of context variables, as tasks have them in their contexts.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::python::memory::addresses::{AddressMap, AddressSet};
use crate::python::memory::{Batch, at, plausible, word};
use crate::python::objects::{Kind, OBJECT_SIZE, OBJECT_TYPE, Reader};

/// The deepest tree: seven levels of five bits of a hash, and one for collisions.
const MAX_DEPTH: usize = 8;
/// Nodes of all trees that are read in one scan.
const MAX_NODES: usize = 1 << 18;
/// Words of the largest node with pairs, and of one with other nodes.
const MAX_PAIR_WORDS: usize = 64;
const CHILDREN: usize = 32;
/// The longest value that is taken over, characters.
const MAX_VALUE_CHARS: usize = 256;
/// Longer byte strings are not read, bytes.
const MAX_BYTES: usize = 256;

/// Values by the names of their variables.
pub(crate) type Values = BTreeMap<String, String>;

/// What a node holds.
#[derive(Clone, Default)]
struct Node {
    /// Variables and their values.
    pairs: Vec<(u64, u64)>,
    nodes: Vec<u64>,
}

/// The values of the variables `names` in each context; nothing for what is no context.
pub(crate) fn values(
    reader: &mut Reader<'_>,
    contexts: &[u64],
    names: &[String],
) -> AddressMap<Arc<Values>> {
    let mut wanted: Vec<u64> = contexts.iter().copied().filter(|c| plausible(*c)).collect();
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() || names.is_empty() {
        return AddressMap::default();
    }
    let found = objects(reader, &wanted, names);
    let rendered = render(reader, found.iter().flatten().map(|(_, value)| *value));
    wanted
        .into_iter()
        .zip(found)
        .map(|(context, found)| (context, Arc::new(texts(&found, names, &rendered))))
        .collect()
}

/// The values of the variables `names` in one context, and the objects that variables called `other` have there: the
/// program may have one of its own of that name.
pub(crate) fn values_and(
    reader: &mut Reader<'_>,
    context: u64,
    names: &[String],
    other: &str,
) -> (Values, Vec<u64>) {
    let mut all = names.to_vec();
    all.push(other.to_owned());
    let mut found = objects(reader, &[context], &all).pop().unwrap_or_default();
    let is_others = |(name, _): &(usize, u64)| all[*name] == other;
    let others = found.iter().filter(|pair| is_others(pair));
    let others = others.map(|(_, value)| *value).collect();
    found.retain(|(name, _)| *name < names.len());
    let rendered = render(reader, found.iter().map(|(_, value)| *value));
    (texts(&found, names, &rendered), others)
}

/// Which of the variables `names` have which objects in each context.
fn objects(reader: &mut Reader<'_>, contexts: &[u64], names: &[String]) -> Vec<Vec<(usize, u64)>> {
    let roots = roots(reader, contexts);
    let nodes = nodes(reader, roots.iter().flatten().copied());
    let variables = variables(reader, &nodes, names);
    roots
        .iter()
        .map(|root| match root {
            Some(root) if !reader.is_over() => pairs(&nodes, *root, &variables),
            _ => Vec::new(),
        })
        .collect()
}

fn texts(found: &[(usize, u64)], names: &[String], rendered: &AddressMap<String>) -> Values {
    let texts = found
        .iter()
        .filter_map(|(name, value)| Some((names[*name].clone(), rendered.get(value)?.clone())));
    texts.collect()
}

/// The root of each context's tree.
fn roots(reader: &mut Reader<'_>, contexts: &[u64]) -> Vec<Option<u64>> {
    let fields = reader.walk.context;
    let trees = fields_of(reader, contexts, Kind::Context, fields.variables);
    let trees: Vec<u64> = trees.into_iter().map(Option::unwrap_or_default).collect();
    fields_of(reader, &trees, Kind::Hamt, fields.root)
}

/// The pointer at `offset` of each object that is of a kind.
fn fields_of(
    reader: &mut Reader<'_>,
    objects: &[u64],
    kind: Kind,
    offset: u32,
) -> Vec<Option<u64>> {
    let mut batch = Batch::new();
    for object in objects {
        batch.push(*object, offset as usize + 8);
    }
    reader.fetch(&mut batch);
    reader.load_types((0..batch.len()).filter_map(|slot| word(batch.prefix(slot), OBJECT_TYPE)));
    (0..batch.len())
        .map(|slot| {
            let bytes = batch.prefix(slot);
            (reader.kind(bytes)? == kind).then(|| word(bytes, offset))?
        })
        .collect()
}

/// All nodes below the roots, by address. Contexts share most of them.
fn nodes(reader: &mut Reader<'_>, roots: impl Iterator<Item = u64>) -> AddressMap<Node> {
    let fields = reader.walk.context;
    let first_len = fields.children.max(fields.pairs) as usize + MAX_PAIR_WORDS * 8;
    let mut nodes: AddressMap<Node> = AddressMap::default();
    let mut level: Vec<u64> = roots.collect();
    for _ in 0..MAX_DEPTH {
        level.sort_unstable();
        level.dedup();
        level.retain(|node| plausible(*node) && !nodes.contains_key(node));
        if level.is_empty() {
            break;
        }
        if nodes.len() + level.len() > MAX_NODES {
            let reason = "there are more contexts than are read".to_owned();
            reader.limits.insert("tasks.context".to_owned(), reason);
            break;
        }
        let mut batch = Batch::new();
        for node in &level {
            batch.push(*node, first_len);
        }
        reader.fetch(&mut batch);
        let types = (0..level.len()).filter_map(|slot| word(batch.prefix(slot), OBJECT_TYPE));
        reader.load_types(types);
        let mut next = Vec::new();
        for (slot, address) in level.into_iter().enumerate() {
            let node = parse(reader, batch.prefix(slot)).unwrap_or_default();
            next.extend(&node.nodes);
            nodes.insert(address, node);
        }
        level = next;
    }
    nodes
}

fn parse(reader: &Reader<'_>, bytes: &[u8]) -> Option<Node> {
    let fields = reader.walk.context;
    let words = |first: u32, count: usize| {
        (0..count as u32).map_while(move |index| word(bytes, first + index * 8))
    };
    match reader.kind(bytes)? {
        Kind::HamtPairs => {
            let count = usize::try_from(word(bytes, fields.pairs_count)?).ok()?;
            Some(pairs_of(words(fields.pairs, count.min(MAX_PAIR_WORDS))))
        }
        Kind::HamtCollision => {
            let count = usize::try_from(word(bytes, fields.pairs_count)?).ok()?;
            Some(pairs_of(words(
                fields.collisions,
                count.min(MAX_PAIR_WORDS),
            )))
        }
        Kind::HamtNodes => Some(Node {
            pairs: Vec::new(),
            nodes: words(fields.children, CHILDREN)
                .filter(|node| *node != 0)
                .collect(),
        }),
        _ => None,
    }
}

fn pairs_of(words: impl Iterator<Item = u64>) -> Node {
    let words: Vec<u64> = words.collect();
    let mut node = Node::default();
    for pair in words.chunks_exact(2) {
        match pair {
            [0, child] => node.nodes.push(*child),
            [variable, value] => node.pairs.push((*variable, *value)),
            _ => {}
        }
    }
    node
}

/// The variables that are asked for: address, and which name.
fn variables(
    reader: &mut Reader<'_>,
    nodes: &AddressMap<Node>,
    names: &[String],
) -> AddressMap<usize> {
    let all: AddressSet = nodes
        .values()
        .flat_map(|node| node.pairs.iter().map(|(variable, _)| *variable))
        .collect();
    let all: Vec<u64> = all.into_iter().collect();
    let texts = fields_of(reader, &all, Kind::ContextVar, reader.walk.context.name);
    reader.load_texts(texts.iter().flatten().copied());
    all.iter()
        .zip(texts)
        .filter_map(|(variable, text)| {
            let text = reader.text(text?)?;
            let name = names.iter().position(|name| **name == **text)?;
            Some((*variable, name))
        })
        .collect()
}

/// Which of the variables have which values below a node.
fn pairs(nodes: &AddressMap<Node>, root: u64, variables: &AddressMap<usize>) -> Vec<(usize, u64)> {
    let mut found = Vec::new();
    let mut seen = AddressSet::default();
    let mut open = vec![root];
    while let Some(node) = open.pop() {
        let Some(node) = nodes.get(&node).filter(|_| seen.insert(node)) else {
            continue;
        };
        found.extend(
            node.pairs
                .iter()
                .filter_map(|(variable, value)| Some((*variables.get(variable)?, *value))),
        );
        open.extend(&node.nodes);
    }
    found
}

/// What each value looks like: strings as they are, bytes as text or in hexadecimal, numbers, UUIDs;
/// of others, the class.
fn render(reader: &mut Reader<'_>, values: impl Iterator<Item = u64>) -> AddressMap<String> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.dedup();
    let types = reader.types_of(&values);
    let mut texts = Vec::new();
    let mut numbers = Vec::new();
    let mut uuids = Vec::new();
    let mut strings_of_bytes = Vec::new();
    let mut rendered: AddressMap<String> = AddressMap::default();
    for (value, info) in values.iter().zip(&types) {
        let Some(info) = info else { continue };
        match info.kind {
            Kind::Text => texts.push(*value),
            Kind::Integer => numbers.push((*value, &*info.name == "bool")),
            Kind::Bytes => strings_of_bytes.push(*value),
            Kind::Float => {
                let number = reader.read_number(*value);
                rendered.extend(number.map(|number| (*value, number.to_string())));
            }
            _ if &*info.name == "NoneType" => {
                rendered.insert(*value, "None".to_owned());
            }
            _ if &*info.name == "UUID" => uuids.push(*value),
            _ => {}
        }
    }
    // They may be as short-lived as their tasks: what is known of an address may be another's.
    reader.forget_texts(texts.iter().copied());
    reader.load_texts(texts.iter().copied());
    for value in texts {
        let text = reader.text(value).map(|text| (value, text.to_string()));
        rendered.extend(text);
    }
    let (addresses, bools): (Vec<u64>, Vec<bool>) = numbers.into_iter().unzip();
    let numbers = reader.longs(&addresses);
    for ((value, number), is_bool) in addresses.into_iter().zip(numbers).zip(bools) {
        rendered.extend(number.map(|number| (value, in_decimal(number, is_bool))));
    }
    for (value, content) in bytes(reader, &strings_of_bytes) {
        rendered.insert(value, content);
    }
    for (value, number) in numbers_of_uuids(reader, &uuids) {
        rendered.insert(value, uuid(number));
    }
    for (value, info) in values.into_iter().zip(types) {
        if info.is_some() {
            let text = rendered
                .remove(&value)
                .unwrap_or_else(|| class_of(reader, value));
            rendered.insert(value, text.chars().take(MAX_VALUE_CHARS).collect());
        }
    }
    rendered
}

fn class_of(reader: &mut Reader<'_>, value: u64) -> String {
    let class = reader.pointer(at(value, OBJECT_TYPE)).ok();
    let name = class.and_then(|class| reader.type_name(class));
    format!("<{}>", name.as_deref().unwrap_or("?"))
}

fn in_decimal((negative, size): (bool, u128), is_bool: bool) -> String {
    match (is_bool, negative, size) {
        (true, _, 0) => "False".to_owned(),
        (true, _, _) => "True".to_owned(),
        (false, true, size) => format!("-{size}"),
        (false, false, size) => size.to_string(),
    }
}

/// What the byte strings hold: text where it is some, else hexadecimal digits.
fn bytes(reader: &mut Reader<'_>, values: &[u64]) -> Vec<(u64, String)> {
    let data = reader.walk.text.bytes;
    let mut batch = Batch::new();
    for value in values {
        batch.push(*value, data as usize + MAX_BYTES);
    }
    reader.fetch(&mut batch);
    (0..values.len())
        .filter_map(|slot| {
            let bytes = batch.prefix(slot);
            (reader.kind(bytes)? == Kind::Bytes).then_some(())?;
            let size = usize::try_from(word(bytes, OBJECT_SIZE)?).ok()?;
            let from = data as usize;
            let content = bytes.get(from..from.checked_add(size.min(MAX_BYTES))?)?;
            let text = match std::str::from_utf8(content) {
                Ok(text) => text.to_owned(),
                // It was cut within a character.
                Err(error) if size > MAX_BYTES && error.error_len().is_none() => {
                    String::from_utf8_lossy(&content[..error.valid_up_to()]).into_owned()
                }
                Err(_) => content.iter().map(|byte| format!("{byte:02x}")).collect(),
            };
            Some((values[slot], text))
        })
        .collect()
}

/// The one number that each `uuid.UUID` consists of.
fn numbers_of_uuids(reader: &mut Reader<'_>, uuids: &[u64]) -> Vec<(u64, u128)> {
    let found = reader.members(uuids, &["int"]);
    let (uuids, numbers): (Vec<u64>, Vec<u64>) = uuids
        .iter()
        .zip(found)
        .filter_map(|(uuid, found)| Some((*uuid, found?[0]?)))
        .unzip();
    let numbers = reader.longs(&numbers);
    uuids
        .into_iter()
        .zip(numbers)
        .filter_map(|(uuid, number)| match number? {
            (false, number) => Some((uuid, number)),
            (true, _) => None,
        })
        .collect()
}

/// The canonical form (RFC 9562).
fn uuid(number: u128) -> String {
    let hex = format!("{number:032x}");
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::objects::synthetic::{World, set_word};

    /// A tree of every kind of node: the root has many children, of which one has pairs and one
    /// more child, of variables whose hashes are equal.
    #[test]
    fn trees_of_every_kind_of_node_give_their_values() {
        for minor in 8..=15 {
            let mut world = World::new(minor);
            let fields = world.walk.context;
            let mut classes = std::collections::HashMap::new();
            for (name, size) in [
                ("_contextvars.Context", u64::from(fields.size)),
                ("_contextvars.ContextVar", 64),
                ("hamt", 40),
                ("hamt_bitmap_node", 32),
                ("hamt_array_node", 32),
                ("hamt_collision_node", 32),
            ] {
                classes.insert(name, world.class(name, 0, size));
            }
            let variable = |world: &mut World, name: &str| {
                let name = world.text(name);
                let mut bytes = World::object(classes["_contextvars.ContextVar"], 64);
                set_word(&mut bytes, fields.name, name);
                world.put(&bytes)
            };
            let wanted: Vec<(u64, u64)> = ["one", "two", "three"]
                .iter()
                .map(|name| {
                    (
                        variable(&mut world, name),
                        world.text(&format!("is {name}")),
                    )
                })
                .collect();
            let other = variable(&mut world, "other");
            let node = |world: &mut World, class: &str, first: u32, words: &[u64]| {
                let mut bytes = World::object(classes[class], first as usize + words.len() * 8);
                if class != "hamt_array_node" {
                    set_word(&mut bytes, fields.pairs_count, words.len() as u64);
                }
                for (index, word) in (0..).zip(words) {
                    set_word(&mut bytes, first + index * 8, *word);
                }
                world.put(&bytes)
            };
            let equal = [wanted[1].0, wanted[1].1, wanted[2].0, wanted[2].1];
            let equal = node(&mut world, "hamt_collision_node", fields.collisions, &equal);
            let same_name = variable(&mut world, "other");
            let of_others = [wanted[0].1, wanted[1].1];
            let pairs = [
                wanted[0].0,
                wanted[0].1,
                other,
                of_others[0],
                same_name,
                of_others[1],
                0,
                equal,
            ];
            let pairs = node(&mut world, "hamt_bitmap_node", fields.pairs, &pairs);
            let mut children = [0; CHILDREN];
            children[7] = pairs;
            // A tree that is damaged may lead back into itself.
            children[9] = pairs;
            let root = node(&mut world, "hamt_array_node", fields.children, &children);
            let mut tree = World::object(classes["hamt"], 40);
            set_word(&mut tree, fields.root, root);
            let tree = world.put(&tree);
            let mut context = World::object(classes["_contextvars.Context"], fields.size as usize);
            set_word(&mut context, fields.variables, tree);
            let context = world.put(&context);

            let names = ["one", "two", "three", "four"].map(str::to_owned);
            let mut reader = world.reader();
            let found = values(&mut reader, &[context, 0, pairs], &names);
            let expected: Values = ["one", "two", "three"]
                .map(|name| (name.to_owned(), format!("is {name}")))
                .into();
            assert_eq!(*found[&context], expected, "3.{minor}");
            assert!(found[&pairs].is_empty(), "3.{minor}: no context");
            assert_eq!(found.len(), 2, "3.{minor}");
            let (values, mut others) = values_and(&mut reader, context, &names, "other");
            others.sort_unstable();
            assert_eq!((values, &*others), (expected, &of_others[..]), "3.{minor}");
        }
    }

    #[test]
    fn uuids_have_their_canonical_form() {
        let number = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;
        assert_eq!(uuid(number), "01234567-89ab-cdef-0011-223344556677");
        assert_eq!(uuid(1), "00000000-0000-0000-0000-000000000001");
    }
}
