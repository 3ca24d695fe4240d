//! The files that a snapshot holds, from its trees.

use std::collections::BTreeMap;
use std::path::Path;

use rustic_core::jiff::Timestamp;
use rustic_core::repofile::{Node, NodeType, Tree};

use super::id::Id;
use super::vault::{Index, Place, Vault, damaged};
use crate::error::{Error, Kind, Result};

/// How deep directories may be nested; deeper ones would be a loop.
const DEEPEST: usize = 64;

/// A file in a snapshot.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    /// Bytes, as its entry says.
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) mtime: Option<Timestamp>,
    /// Where its content lies, in order.
    pub(super) content: Vec<Place>,
    /// Parts of its content that no index knows.
    pub(super) missing: Vec<Id>,
}

impl Leaf {
    /// Bytes that its content has.
    pub(super) fn content_size(&self) -> u64 {
        self.content.iter().map(|place| u64::from(place.size)).sum()
    }
}

/// All files by path, and the places of the trees.
#[derive(Default)]
pub(super) struct Forest {
    pub(super) files: BTreeMap<String, Leaf>,
    pub(super) trees: Vec<Place>,
}

/// Reads all trees below `root`.
///
/// # Errors
/// [`Kind::Verify`] if a tree is missing or damaged, or holds what no backup of ours holds.
pub(super) fn walk(vault: &Vault, index: &Index, root: Id) -> Result<Forest> {
    let mut forest = Forest::default();
    walk_into(vault, index, root, "", 0, &mut forest)?;
    Ok(forest)
}

fn walk_into(vault: &Vault, index: &Index, id: Id, prefix: &str, depth: usize, forest: &mut Forest) -> Result<()> {
    let at = if prefix.is_empty() { "/" } else { prefix };
    if depth > DEEPEST {
        return Err(Error::new(Kind::Verify, format!("directories are nested too deeply at {at}")));
    }
    let place = index.tree(id).ok_or_else(|| {
        Error::new(Kind::Verify, format!("the list of files of {at} is in no index")).with("tree", id)
    })?;
    forest.trees.push(place);
    let bytes =
        vault.blob(&place).map_err(|error| error.with("while", format!("reading the list of files of {at}")))?;
    let tree: Tree = serde_json::from_slice(&bytes).map_err(|error| damaged(at, &error.to_string()))?;
    for node in tree.nodes {
        let name = node.name();
        let name = name.to_str().ok_or_else(|| damaged(at, "a name in it is not UTF-8"))?;
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        match (&node.node_type, node.subtree) {
            (NodeType::File, None) => {
                if forest.files.insert(path.clone(), leaf(&node, index)).is_some() {
                    return Err(damaged(&path, "it is there twice"));
                }
            }
            (NodeType::Dir, Some(subtree)) => {
                walk_into(vault, index, Id::from(&*subtree), &path, depth + 1, forest)?;
            }
            _ => return Err(damaged(&path, "it is neither a file nor a directory")),
        }
    }
    Ok(())
}

fn leaf(node: &Node, index: &Index) -> Leaf {
    let (mut content, mut missing) = (Vec::new(), Vec::new());
    for blob in node.content.iter().flatten().map(|id| Id::from(&**id)) {
        match index.data(blob) {
            Some(place) => content.push(place),
            None => missing.push(blob),
        }
    }
    Leaf { size: node.meta.size, mode: node.meta.mode.unwrap_or(0o600), mtime: node.meta.mtime, content, missing }
}

/// The components of a path that may be stored: relative, none of them empty, `.` or `..`.
pub(super) fn components(path: &str) -> Option<Vec<&[u8]>> {
    let parts: Vec<_> = path.split('/').collect();
    let plain = parts.iter().all(|part| !matches!(*part, "" | "." | "..") && !part.contains('\0'));
    (plain && parts.len() < DEEPEST && !Path::new(path).is_absolute())
        .then(|| parts.into_iter().map(str::as_bytes).collect())
}
