//! What reads the chunks of captures, for the fuzzer.

use super::pipeline::Pipeline;
use crate::capture::{Encoder, Input, Reader, chunk_of};

/// The contents of the chunks of a file, whole ones.
pub fn contents(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut contents = Vec::new();
    if let Ok(mut reader) = Reader::new(bytes) {
        while let Ok(Some(item)) = reader.item() {
            if let crate::capture::Item::Chunk(chunk) = item {
                contents.push(chunk.content().to_vec());
            }
        }
    }
    contents
}

/// Reads the content of a chunk whose checksum is right, and feeds what it gives to the pipeline of
/// a file; what can be fed can be written again.
pub fn content(file: &[u8], content: &[u8]) {
    let (Ok(reader), Ok(chunk)) = (Reader::new(file), chunk_of(content)) else {
        return;
    };
    let mut pipeline = Pipeline::new(reader.header().info.clone());
    let mut encoder = Encoder::default();
    let Ok(inputs) = chunk.inputs() else {
        return;
    };
    for input in inputs.map_while(Result::ok) {
        encoder.put(&input);
        pipeline.feed(input);
    }
    pipeline.feed(Input::Release { until_ns: u64::MAX });
    pipeline.summary();
    encoder.seal(0, 0, false);
}
