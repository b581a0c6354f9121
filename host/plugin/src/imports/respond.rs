//! The interface `respond`: what the agent says to the client.

use std::sync::Arc;

use outlast_protocol::{ClientTool, ClientTools, Emission, Emitted, ItemIndex};
use serde::Deserialize;
use serde_json::Value;
use wasmtime::component::Resource;

use crate::{
    bindings::handles::{OpenMessage, OpenReasoning},
    bindings::respond::{Host, HostMessage, HostReasoning, Usage},
    sandbox::RunState,
};

impl From<Usage> for outlast_protocol::Usage {
    fn from(usage: Usage) -> Self {
        let Usage { input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens } = usage;
        Self::new(input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens)
    }
}

impl Host for RunState {
    async fn call_function(&mut self, name: String, arguments: String) -> wasmtime::Result<String> {
        const IMPORT: &str = "respond.call-function";
        let tool = self.client_tools(IMPORT).await?.named(&name);
        let (call, id) = self.open_call(IMPORT, &tool).await?;
        self.emit(IMPORT, Emission::Arguments(call, &arguments)).await?;
        self.emit(IMPORT, Emission::Finish(call)).await?;
        Ok(id)
    }

    async fn report_usage(&mut self, usage: Usage) -> wasmtime::Result<()> {
        self.emit("respond.report-usage", Emission::Usage(usage.into())).await?;
        Ok(())
    }
}

impl HostMessage for RunState {
    async fn new(&mut self) -> wasmtime::Result<Resource<OpenMessage>> {
        let item = self.open("respond.message", Emission::OpenMessage).await?;
        self.hold(OpenMessage(item))
    }

    async fn write(&mut self, message: Resource<OpenMessage>, text: String) -> wasmtime::Result<()> {
        let OpenMessage(item) = *self.table.get(&message)?;
        self.emit("respond.message.write", Emission::Text(item, &text)).await?;
        Ok(())
    }

    async fn refuse(&mut self, message: Resource<OpenMessage>, text: String) -> wasmtime::Result<()> {
        let OpenMessage(item) = *self.table.get(&message)?;
        self.emit("respond.message.refuse", Emission::Refusal(item, &text)).await?;
        Ok(())
    }

    async fn finish(&mut self, message: Resource<OpenMessage>) -> wasmtime::Result<()> {
        let OpenMessage(item) = *self.table.get(&message)?;
        self.emit("respond.message.finish", Emission::Finish(item)).await?;
        Ok(())
    }

    async fn drop(&mut self, message: Resource<OpenMessage>) -> wasmtime::Result<()> {
        let OpenMessage(item) = self.table.delete(message)?;
        self.emit("respond.message", Emission::Abandon(item)).await?;
        Ok(())
    }
}

impl HostReasoning for RunState {
    async fn new(&mut self) -> wasmtime::Result<Resource<OpenReasoning>> {
        let item = self.open("respond.reasoning", Emission::OpenReasoning).await?;
        self.hold(OpenReasoning(item))
    }

    async fn write(&mut self, reasoning: Resource<OpenReasoning>, summary: String) -> wasmtime::Result<()> {
        let OpenReasoning(item) = *self.table.get(&reasoning)?;
        self.emit("respond.reasoning.write", Emission::Summary(item, &summary)).await?;
        Ok(())
    }

    async fn finish(&mut self, reasoning: Resource<OpenReasoning>) -> wasmtime::Result<()> {
        let OpenReasoning(item) = *self.table.get(&reasoning)?;
        self.emit("respond.reasoning.finish", Emission::Finish(item)).await?;
        Ok(())
    }

    async fn drop(&mut self, reasoning: Resource<OpenReasoning>) -> wasmtime::Result<()> {
        let OpenReasoning(item) = self.table.delete(reasoning)?;
        self.emit("respond.reasoning", Emission::Abandon(item)).await?;
        Ok(())
    }
}

impl RunState {
    /// The tools that the client offers in its request.
    async fn client_tools(&mut self, import: &str) -> wasmtime::Result<Arc<ClientTools>> {
        #[derive(Default, Deserialize)]
        struct Request {
            #[serde(default)]
            tools: Vec<Value>,
        }
        if let Some(tools) = &self.client_tools {
            return Ok(tools.clone());
        }
        let request = self.active(import)?.request.clone();
        let bytes = request.len();
        let read = move || ClientTools::of(&serde_json::from_str::<Request>(&request).unwrap_or_default().tools);
        let tools = Arc::new(self.aside(bytes, read).await);
        Ok(self.client_tools.insert(tools).clone())
    }

    /// Opens a call of a tool of the client: its item, and the id that the client answers to.
    pub(super) async fn open_call(&mut self, import: &str, tool: &ClientTool) -> wasmtime::Result<(ItemIndex, String)> {
        match self.emit(import, Emission::OpenCall(tool)).await? {
            Emitted::Call(item, id) => Ok((item, id)),
            other => Err(wasmtime::Error::msg(format!("opening a call gave {other:?}"))),
        }
    }

    /// Opens an item.
    pub(super) async fn open(&mut self, import: &str, emission: Emission<'_>) -> wasmtime::Result<ItemIndex> {
        match self.emit(import, emission).await? {
            Emitted::Item(item) => Ok(item),
            other => Err(wasmtime::Error::msg(format!("opening an item gave {other:?}"))),
        }
    }
}
