//! The layouts of the releases that were measured: 3.8.18, 3.9.18, 3.10.13, 3.11.7, 3.12.1,
//! 3.13.0, 3.14.10 and 3.15.2, builds with a GIL.

use super::{
    AwaitShape, CallableLayout, CodeLayout, ContainerLayout, FrameLayout, GeneratorLayout,
    GilPlace, InstanceShape, IntegerShape, InterpreterLayout, Layout, RunningLoop, RuntimeLayout,
    SplitValues, StateNumbers, TaskLayout, TextLayout, ThreadLayout, TypeLayout, Version,
    WalkLayout,
};

/// The row for a version; `None` when there is none.
pub fn row(version: Version) -> Option<Layout> {
    ROWS.iter()
        .find(|(minor, _)| version.major == 3 && version.minor == *minor)
        .map(|(_, layout)| layout.clone())
}

const ROWS: &[(u8, Layout)] = &[
    (8, gil_only(32, 1152, 0, 8, 56)),
    (9, gil_only(32, 352, 0, 8, 856)),
    (10, gil_only(32, 352, 0, 8, 856)),
    (
        11,
        Layout {
            runtime: RuntimeLayout {
                interpreters_head: 40,
            },
            interpreter: InterpreterLayout {
                next: 0,
                threads_head: 16,
                modules: 888,
                gil: GilPlace::Runtime(360),
                tasks_head: None,
            },
            walk: Some(WALK_3_11),
        },
    ),
    (
        12,
        Layout {
            runtime: RuntimeLayout {
                interpreters_head: 40,
            },
            interpreter: InterpreterLayout {
                next: 0,
                threads_head: 72,
                modules: 944,
                gil: GilPlace::Pointer(384),
                tasks_head: None,
            },
            walk: Some(WALK_3_12),
        },
    ),
    (
        13,
        Layout {
            runtime: RuntimeLayout {
                interpreters_head: 632,
            },
            interpreter: InterpreterLayout {
                next: 7264,
                threads_head: 7344,
                modules: 7656,
                gil: GilPlace::Pointer(16),
                tasks_head: None,
            },
            walk: Some(WALK_3_13),
        },
    ),
    (
        14,
        Layout {
            runtime: RuntimeLayout {
                interpreters_head: 808,
            },
            interpreter: InterpreterLayout {
                next: 7272,
                threads_head: 7344,
                modules: 7688,
                gil: GilPlace::Pointer(16),
                tasks_head: Some(10880),
            },
            walk: Some(WALK_3_14),
        },
    ),
    (
        15,
        Layout {
            runtime: RuntimeLayout {
                interpreters_head: 936,
            },
            interpreter: InterpreterLayout {
                next: 7264,
                threads_head: 7336,
                modules: 7592,
                gil: GilPlace::Pointer(16),
                tasks_head: Some(10856),
            },
            walk: Some(WALK_3_15),
        },
    ),
];

const fn gil_only(
    interpreters_head: u32,
    gil: u32,
    next: u32,
    threads_head: u32,
    modules: u32,
) -> Layout {
    Layout {
        runtime: RuntimeLayout { interpreters_head },
        interpreter: InterpreterLayout {
            next,
            threads_head,
            modules,
            gil: GilPlace::Runtime(gil),
            tasks_head: None,
        },
        walk: None,
    }
}

const WALK_3_11: WalkLayout = WalkLayout {
    thread: ThreadLayout {
        prev: 0,
        next: 8,
        interpreter: 16,
        ident: 152,
        native_id: 160,
        running_loop: RunningLoop::DictHolder {
            dict: 128,
            held: 16,
        },
        running_task: None,
        tasks_head: None,
    },
    frame: FrameLayout {
        executable: 32,
        instruction: 56,
        locals: 72,
        stack: 64,
        // RESUME and RESUME_QUICK of Include/opcode.h.
        awaited: AwaitShape::Resume {
            opcodes: [151, 150],
        },
        tagged: false,
    },
    generator: GeneratorLayout {
        qualname: 40,
        state: 75,
        frame: 80,
        states: StateNumbers {
            created: -2,
            suspended: -1,
            awaiting: &[],
            executing: 0,
        },
    },
    code: CodeLayout {
        filename: 112,
        qualname: 128,
        first_line: 72,
        line_table: 136,
        instructions: 184,
    },
    types: TypeLayout {
        name: 24,
        basic_size: 32,
        flags: 168,
        dict_offset: 288,
        base: 256,
        dict: 264,
        mro: 344,
        cached_keys: 872,
        qualname: 864,
    },
    text: TextLayout {
        length: 16,
        state: 32,
        ascii: 48,
        compact: 72,
        data: 72,
        bytes: 32,
    },
    integer: IntegerShape::SignedSize {
        size: 16,
        digits: 24,
    },
    containers: ContainerLayout {
        tuple_items: 24,
        list_items: 24,
        set_mask: 32,
        set_table: 40,
        dict_used: 16,
        dict_keys: 32,
        dict_values: 40,
        split_values: SplitValues { first: 0 },
        module_dict: 16,
        weakref_object: 16,
        float_value: 16,
    },
    instance: InstanceShape::TwoPointers {
        values: 32,
        dict: 24,
    },
    callable: CallableLayout {
        function_qualname: 40,
        function_module: 104,
        method_function: 16,
        builtin_definition: 16,
        builtin_self: 24,
        builtin_module: 32,
        partial_function: 16,
    },
    task: TaskLayout {
        size: 176,
        loop_object: 16,
        state: 88,
        awaited_future: 128,
        coroutine: 136,
        name: 144,
        node: None,
        weak_sets: &["_all_tasks"],
        sets: &[],
    },
};

const WALK_3_12: WalkLayout = WalkLayout {
    thread: ThreadLayout {
        ident: 136,
        native_id: 144,
        running_loop: RunningLoop::Dict { dict: 112 },
        ..WALK_3_11.thread
    },
    frame: FrameLayout {
        executable: 0,
        // RESUME and INSTRUMENTED_RESUME of Include/opcode.h.
        awaited: AwaitShape::Resume {
            opcodes: [151, 240],
        },
        ..WALK_3_11.frame
    },
    generator: GeneratorLayout {
        qualname: 32,
        state: 67,
        frame: 72,
        ..WALK_3_11.generator
    },
    code: CodeLayout {
        first_line: 68,
        instructions: 192,
        ..WALK_3_11.code
    },
    types: TypeLayout {
        cached_keys: 880,
        qualname: 872,
        ..WALK_3_11.types
    },
    text: TextLayout {
        ascii: 40,
        compact: 56,
        data: 56,
        ..WALK_3_11.text
    },
    integer: IntegerShape::Tag {
        tag: 16,
        digits: 24,
    },
    instance: InstanceShape::TaggedPointer { word: 24 },
    task: TaskLayout {
        weak_sets: &["_scheduled_tasks"],
        sets: &["_eager_tasks"],
        ..WALK_3_11.task
    },
    ..WALK_3_11
};

const WALK_3_13: WalkLayout = WalkLayout {
    thread: ThreadLayout {
        ident: 152,
        native_id: 160,
        running_loop: RunningLoop::Field(304),
        ..WALK_3_12.thread
    },
    frame: FrameLayout {
        awaited: AwaitShape::StackIndex,
        ..WALK_3_12.frame
    },
    generator: GeneratorLayout {
        states: StateNumbers {
            created: -3,
            suspended: -2,
            awaiting: &[-1],
            executing: 0,
        },
        ..WALK_3_12.generator
    },
    code: CodeLayout {
        instructions: 200,
        ..WALK_3_12.code
    },
    containers: ContainerLayout {
        split_values: SplitValues { first: 8 },
        ..WALK_3_12.containers
    },
    instance: InstanceShape::Inline { dict: 24, valid: 3 },
    task: TaskLayout {
        size: 144,
        state: 96,
        awaited_future: 112,
        coroutine: 120,
        name: 128,
        ..WALK_3_12.task
    },
    ..WALK_3_12
};

const WALK_3_14: WalkLayout = WalkLayout {
    thread: ThreadLayout {
        running_loop: RunningLoop::Field(864),
        running_task: Some(872),
        tasks_head: Some(880),
        ..WALK_3_13.thread
    },
    frame: FrameLayout {
        locals: 80,
        awaited: AwaitShape::StackPointer,
        tagged: true,
        ..WALK_3_13.frame
    },
    code: CodeLayout {
        instructions: 208,
        ..WALK_3_13.code
    },
    containers: ContainerLayout {
        tuple_items: 32,
        ..WALK_3_13.containers
    },
    task: TaskLayout {
        size: 168,
        state: 104,
        awaited_future: 120,
        coroutine: 128,
        name: 136,
        node: Some(152),
        ..WALK_3_13.task
    },
    ..WALK_3_13
};

const WALK_3_15: WalkLayout = WalkLayout {
    thread: ThreadLayout {
        ident: 176,
        native_id: 184,
        running_loop: RunningLoop::Field(1024),
        running_task: Some(1032),
        tasks_head: Some(1048),
        ..WALK_3_14.thread
    },
    generator: GeneratorLayout {
        states: StateNumbers {
            created: 0,
            suspended: 1,
            awaiting: &[2, 3],
            executing: 4,
        },
        ..WALK_3_14.generator
    },
    types: TypeLayout {
        cached_keys: 888,
        qualname: 880,
        ..WALK_3_14.types
    },
    ..WALK_3_14
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_exist_for_the_versions_that_were_measured_and_no_other() {
        for minor in 0..=30 {
            let row = row(Version { major: 3, minor });
            assert_eq!(row.is_some(), (8..=15).contains(&minor), "3.{minor}");
            assert_eq!(
                row.is_some_and(|row| row.walk.is_some()),
                (11..=15).contains(&minor),
                "3.{minor}"
            );
        }
        assert!(
            row(Version {
                major: 2,
                minor: 11
            })
            .is_none()
        );
    }
}
