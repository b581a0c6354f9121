//! The host's side of `wit/`, generated.
#![allow(missing_docs, clippy::all)]

pub(crate) mod handles;

/// The module of the generated bindings. What it traces holds arguments, and so what clients wrote.
pub const BINDINGS: &str = module_path!();

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "agent",
    // Each call is a span with what it was asked and what it answered, for who follows every step.
    imports: { default: async | trappable | tracing | verbose_tracing },
    exports: { default: async },
    // What an import answered is an entry of the journal.
    additional_derives: [serde::Serialize, serde::Deserialize],
    with: {
        "outlast:agent/respond.message": handles::OpenMessage,
        "outlast:agent/respond.reasoning": handles::OpenReasoning,
        "outlast:agent/model.generation": handles::OpenGeneration,
        "outlast:agent/tasks.task": handles::OpenTask,
        "outlast:agent/http.pending": handles::OpenRequest,
        "outlast:agent/tools.pending": handles::OpenCall,
    },
});

pub use self::outlast::agent::{context, http, log, model, respond, state, tasks, tools, types};

/// The world `tool`. What it shares with the world `agent` is served by the same code.
pub mod tool {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "tool",
        imports: { default: async | trappable | tracing | verbose_tracing },
        exports: { default: async },
        with: {
            "outlast:agent/types": super::types,
            "outlast:agent/tasks": super::tasks,
            "outlast:agent/http": super::http,
            "outlast:agent/log": super::log,
        },
    });

    pub use self::outlast::agent::config;
}
