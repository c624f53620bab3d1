//! Values of context variables, as tasks have them in their contexts.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::addresses::{AddressMap, AddressSet};
use super::memory::{Batch, at, plausible, word};
use super::object::{Kind, OBJECT_TYPE, Reader};

/// The deepest tree: seven levels of five bits of a hash, and one for collisions.
const MAX_DEPTH: usize = 8;
/// Nodes of all trees that are read in one look.
const MAX_NODES: usize = 1 << 18;
/// Words of the largest node with pairs, and of one with other nodes.
const MAX_PAIR_WORDS: usize = 64;
const CHILDREN: usize = 32;
/// The longest value that is taken over, characters.
const MAX_VALUE_CHARS: usize = 256;
/// Longer byte strings are not read, bytes.
const MAX_BYTES: u64 = 256;

/// Values by the names of their variables.
pub(super) type Values = BTreeMap<String, String>;

/// What a node holds.
#[derive(Clone, Default)]
struct Node {
    /// Variables and their values.
    pairs: Vec<(u64, u64)>,
    nodes: Vec<u64>,
}

/// The values of the variables `names` in each context; nothing for what is no context.
pub(super) fn values(
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
    let roots = roots(reader, &wanted);
    let nodes = nodes(reader, roots.iter().flatten().copied());
    let variables = variables(reader, &nodes, names);
    let found: Vec<Vec<(usize, u64)>> = roots
        .iter()
        .map(|root| root.map_or(Vec::new(), |root| pairs(&nodes, root, &variables)))
        .collect();
    let rendered = render(reader, found.iter().flatten().map(|(_, value)| *value));
    wanted
        .into_iter()
        .zip(found)
        .map(|(context, found)| {
            let values = found
                .into_iter()
                .filter_map(|(name, value)| {
                    Some((names[name].clone(), rendered.get(&value)?.clone()))
                })
                .collect();
            (context, Arc::new(values))
        })
        .collect()
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
    reader.load_texts(values.clone());
    let mut rendered = AddressMap::default();
    for (value, info) in values.into_iter().zip(types) {
        let Some(info) = info else { continue };
        let text = match info.kind {
            Kind::Text => reader.text(value).map(|text| text.to_string()),
            Kind::Integer if &*info.name == "bool" => {
                let number = reader.integers(&[value])[0];
                number.map(|number| if number == 0 { "False" } else { "True" }.to_owned())
            }
            Kind::Integer => reader.long(value),
            Kind::Float => reader.read_number(value).map(|number| number.to_string()),
            Kind::Bytes => bytes(reader, value),
            _ if &*info.name == "NoneType" => Some("None".to_owned()),
            _ if &*info.name == "UUID" => uuid(reader, value),
            _ => None,
        };
        let text = text.unwrap_or_else(|| class_of(reader, value));
        rendered.insert(value, text.chars().take(MAX_VALUE_CHARS).collect());
    }
    rendered
}

fn class_of(reader: &mut Reader<'_>, value: u64) -> String {
    let class = reader.pointer(at(value, OBJECT_TYPE)).ok();
    let name = class.and_then(|class| reader.type_name(class));
    format!("<{}>", name.as_deref().unwrap_or("?"))
}

fn bytes(reader: &mut Reader<'_>, value: u64) -> Option<String> {
    let size = reader.pointer(at(value, super::object::OBJECT_SIZE)).ok()?;
    let data = at(value, reader.walk.text.bytes);
    let content = match size {
        0 => Vec::new(),
        _ => reader.bytes(data, size.min(MAX_BYTES) as usize).ok()?,
    };
    Some(match String::from_utf8(content) {
        Ok(text) => text,
        Err(other) => {
            let hex = other.as_bytes().iter().map(|byte| format!("{byte:02x}"));
            hex.collect()
        }
    })
}

/// `uuid.UUID`: the canonical form of its one number.
fn uuid(reader: &mut Reader<'_>, value: u64) -> Option<String> {
    let number = reader.members_of(value, &["int"])?[0]?;
    let (negative, number) = reader.long_number(number)?;
    (!negative).then_some(())?;
    let hex = format!("{number:032x}");
    Some(format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    ))
}
