//! Which version of a plugin has served last.

use sqlx::Row as _;

use super::{Store, StoreError};

/// A plugin that has served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedPlugin {
    /// What it is: an agent or a tool component.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The version that served last.
    pub version: String,
}

impl Store {
    /// All plugins that have served, in the order of their kinds and names.
    pub async fn served(&self) -> Result<Vec<ServedPlugin>, StoreError> {
        let rows =
            sqlx::query("SELECT kind, name, version FROM served ORDER BY kind, name").fetch_all(&self.pool).await?;
        let plugin = |row: &sqlx::any::AnyRow| {
            let (kind, name, version) = (row.try_get("kind")?, row.try_get("name")?, row.try_get("version")?);
            Ok(ServedPlugin { kind, name, version })
        };
        rows.iter().map(plugin).collect()
    }

    /// Notes that this version serves now.
    pub async fn keep_served(&self, plugin: &ServedPlugin) -> Result<(), StoreError> {
        let keep = "INSERT INTO served (kind, name, version) VALUES ($1, $2, $3) \
                    ON CONFLICT (kind, name) DO UPDATE SET version = excluded.version";
        let ServedPlugin { kind, name, version } = plugin.clone();
        sqlx::query(keep).bind(kind).bind(name).bind(version).execute(&self.pool).await?;
        Ok(())
    }
}
