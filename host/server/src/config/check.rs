//! What a configuration must be, beyond what each of its values must be.

use std::time::Duration;

use outlast_http::{check_keys, is_host_name};
use outlast_plugin::ToolConfig;
use outlast_runtime::{
    limits::{DAY, MOST_MEMORY, MOST_PLACES, YEAR},
    units::bytes,
};

use super::{Config, ConfigError, webhooks};

impl Config {
    pub(super) fn checked(self) -> Result<Self, ConfigError> {
        let fail = |message: String| Err(ConfigError(message));
        if !self.listen.ip().is_loopback() && self.keys.is_empty() {
            return fail(format!(
                "listen = \"{}\" would let everybody who reaches this machine use the server. Make a key with \
                 `outlast key new NAME` and put the lines that it prints into the configuration file, or listen on \
                 127.0.0.1",
                self.listen
            ));
        }
        if let Some(name) = self.allowed_hosts.iter().find(|name| !is_host_name(name)) {
            return fail(format!(
                "allowed_hosts: \"{name}\" must be a name or an address, without a port: `outlast.lan`, `192.168.1.2`, \
                 `[fd00::1]`"
            ));
        }
        self.origins().map_err(ConfigError)?;
        check_keys(&self.keys, MOST_PLACES).map_err(ConfigError)?;
        self.webhooks().map_err(ConfigError)?;
        webhooks::check_urls(&self.webhooks, &self.webhook_private).map_err(ConfigError)?;
        if self.require_signature && self.trusted_keys.is_empty() {
            return fail(
                "require_signature = true needs trusted_keys: `outlast plugin keygen FILE` makes a key and prints the \
                 line"
                    .to_owned(),
            );
        }
        if self.retention < Duration::from_secs(1) || self.retention > DAY * 36_500 {
            return fail(format!("retention = \"{:?}\" must be 1s to 36500d", self.retention));
        }
        if let Some(kept) = self.conversation_retention
            && (kept < Duration::from_secs(1) || kept > DAY * 36_500)
        {
            return fail(format!("conversation_retention = \"{kept:?}\" must be 1s to 36500d"));
        }
        if self.drain_timeout > YEAR {
            return fail(format!("drain_timeout = \"{:?}\" must be 0s to 365d", self.drain_timeout));
        }
        if self.lease < Duration::from_secs(1) || self.lease > Duration::from_secs(3_600) {
            return fail(format!("lease = \"{:?}\" must be 1s to 1h", self.lease));
        }
        for (name, agent) in &self.agents {
            let times = [("cpu_time", agent.cpu_time), ("run_timeout", agent.run_timeout)];
            let sizes =
                [("memory", agent.memory.map(bytes), MOST_MEMORY), ("max_live_runs", agent.max_live_runs, MOST_PLACES)];
            if let Some((key, _)) =
                times.iter().find(|(_, time)| time.is_some_and(|time| time.is_zero() || time > YEAR))
            {
                return fail(format!("agents.{name}.{key} must be 1ms to 365d"));
            }
            for (key, size, most) in sizes {
                if let Some(size) = size.filter(|size| *size == 0 || *size > most) {
                    return fail(format!("agents.{name}.{key} = {size} must be at least 1 and at most {most}"));
                }
            }
        }
        let tools = self.tools.iter().map(|(name, tool)| ("tools", name, tool.timeout));
        let servers = self.mcp.iter().map(|(name, server)| ("mcp", name, server.timeout));
        if let Some((section, name, _)) = tools.chain(servers).find(|(_, _, timeout)| *timeout > YEAR) {
            return fail(format!("{section}.{name}.timeout must be at most 365d"));
        }
        let memory = |tool: &ToolConfig| tool.memory.is_some_and(|memory| bytes(memory) > MOST_MEMORY);
        if let Some((name, _)) = self.tools.iter().find(|(_, tool)| memory(tool)) {
            return fail(format!("tools.{name}.memory must be at most 4GiB"));
        }
        Ok(self)
    }
}
