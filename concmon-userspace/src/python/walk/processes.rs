//! The process as `multiprocessing` knows it: its name, and what it was started to run.

use crate::event::PyProcess;
use crate::python::objects::Reader;

/// What a target of `None` is called.
const NO_TARGET: &str = "NoneType.__call__";

/// Reads `_current_process` of these modules, the dicts of `multiprocessing.process` and of `billiard.process`,
/// which is celery's: of the one that made the process, where one has.
pub(crate) fn read(reader: &mut Reader<'_>, modules: [Option<u64>; 2]) -> Option<PyProcess> {
    let found = modules.map(|module| current(reader, module?));
    let made = |process: &&PyProcess| process.name != "MainProcess";
    let known = || found.iter().flatten();
    known().find(made).or_else(|| known().next()).cloned()
}

fn current(reader: &mut Reader<'_>, module: u64) -> Option<PyProcess> {
    let process = *reader.dict_values(module, &["_current_process"])?.first()?;
    let attributes = reader.attributes_of(process?, &["_name", "_target"])?;
    let [name, target] = attributes[..] else {
        return None;
    };
    let target = target.and_then(|target| reader.callable_name(target));
    Some(PyProcess {
        name: reader.read_text(name?)?.to_string(),
        target: target.filter(|target| target != NO_TARGET),
    })
}
