//! What a callable is called: `module.qualname` of functions, methods, classes and partials.

use super::{Kind, OBJECT_TYPE, Reader};
use crate::python::memory::at;

/// How many wrappers (partials, bound methods) are taken off.
const MAX_WRAPPERS: usize = 8;
/// The longest method resolution order that is searched.
const MAX_MRO: u64 = 64;
/// `PyMethodDef.ml_name` is its first field.
const MAX_NAME_BYTES: usize = 128;

impl Reader<'_> {
    /// The name of a callable object; `None` for what has none.
    pub(crate) fn callable_name(&mut self, object: u64) -> Option<String> {
        let fields = self.walk.callable;
        let mut object = object;
        for _ in 0..MAX_WRAPPERS {
            let info = self.types_of(&[object]).pop()??;
            match info.kind {
                Kind::Method => object = self.pointer(at(object, fields.method_function)).ok()?,
                Kind::Partial => object = self.pointer(at(object, fields.partial_function)).ok()?,
                Kind::Function => {
                    let module = self.pointer(at(object, fields.function_module)).ok()?;
                    let qualname = self.pointer(at(object, fields.function_qualname)).ok()?;
                    self.load_texts([module, qualname]);
                    let qualname = self.text(qualname)?.clone();
                    return Some(joined(self.text(module).map(|m| &**m), &qualname));
                }
                Kind::Builtin => return self.builtin_name(object),
                Kind::Type => return self.type_name(object),
                _ => {
                    let class = self.pointer(at(object, OBJECT_TYPE)).ok()?;
                    return Some(format!("{}.__call__", self.type_name(class)?));
                }
            }
        }
        None
    }

    fn builtin_name(&mut self, object: u64) -> Option<String> {
        let fields = self.walk.callable;
        let module = self.pointer(at(object, fields.builtin_module)).ok()?;
        let definition = self.pointer(at(object, fields.builtin_definition)).ok()?;
        let name = self.definition_name(definition)?;
        if let Some(module) = self.read_text(module) {
            return Some(joined(Some(&module), &name));
        }
        // A method of a built-in type belongs to its object's class.
        let owner = self.pointer(at(object, fields.builtin_self)).ok()?;
        let class = self.pointer(at(owner, OBJECT_TYPE)).ok()?;
        Some(joined(self.type_name(class).as_deref(), &name))
    }

    /// The name in a `PyMethodDef`.
    pub(crate) fn definition_name(&mut self, definition: u64) -> Option<String> {
        let name = self.pointer(definition).ok()?;
        self.c_string(name)
    }

    fn c_string(&mut self, address: u64) -> Option<String> {
        let mut batch = crate::python::memory::Batch::new();
        batch.push(address, MAX_NAME_BYTES);
        self.fetch(&mut batch);
        let bytes = batch.prefix(0);
        let end = bytes.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&bytes[..end]).ok().map(str::to_owned)
    }

    /// `module.qualname` of a class; the plain type name where there is no more.
    pub(crate) fn type_name(&mut self, class: u64) -> Option<String> {
        self.load_types([class]);
        let info = self.type_info(class)?.clone();
        let qualname = self.read_text(info.qualname);
        let Some(qualname) = qualname else {
            return Some(info.name.to_string());
        };
        let module = self
            .dict_values(info.dict, &["__module__"])
            .and_then(|found| found[0])
            .and_then(|module| self.read_text(module));
        Some(joined(module.as_deref(), &qualname))
    }

    /// The first of a class's bases, itself included, whose own dict has `attribute`; and the value.
    pub(crate) fn class_attribute(&mut self, class: u64, attribute: &str) -> Option<(u64, u64)> {
        self.load_types([class]);
        let mro = self.type_info(class)?.mro;
        let bases = self.tuple(mro, MAX_MRO)?;
        self.load_types(bases.iter().copied());
        bases.into_iter().find_map(|base| {
            let dict = self.type_info(base)?.dict;
            let value = self.dict_values(dict, &[attribute])?[0]?;
            Some((base, value))
        })
    }
}

fn joined(module: Option<&str>, qualname: &str) -> String {
    match module {
        Some(module) => format!("{module}.{qualname}"),
        None => qualname.to_owned(),
    }
}
