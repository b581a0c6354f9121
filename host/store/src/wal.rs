//! The write-ahead log of an SQLite database: that it belongs to its file, and that it does not grow for ever.
//!
//! SQLite cannot tell whose `-wal` lies beside a file. Where a backup is copied over a database whose server was killed,
//! it replays the log of the newer file into the older one, and the mixture is broken without a word. So every write
//! transaction of the server counts, in `user_version` in the header of the file, which is its first page. The log's own
//! copies of that page tell which count it begins and ends with, and the file without its log tells its own:
//!
//! - from one before the log's first to the log's last: the log goes on from the file. So it is after every crash, and
//!   also where a backup was copied over the file that is no older than the log; then the result is right.
//! - any other: what lies between is missing, or was written by another line of history.
//!
//! This is exact where `PRAGMA quick_check` and `integrity_check` are not: they find broken trees, and no rows that went
//! back in time. It costs one read of the log's frame headers at the start, where there is a log; `quick_check` reads the
//! whole database, measured at 7 s a GiB with everything in the page cache, `integrity_check` at 13 s.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use sqlx::{AnyConnection, Executor as _, Row as _, SqlSafeStr as _};
use tracing::debug;

use super::{StoreError, file::DatabaseFile};

/// How large the log stays on the disk when it begins anew, in bytes; where it is larger, it is made to begin anew.
pub(super) const LIMIT: u64 = 64 << 20;
/// How often at most. Each time the writer waits for readers, for a second at most.
const PAUSE: Duration = Duration::from_secs(60);

/// Where the header of a database has its `user_version`, and how much of the header is read for it.
const COUNT: std::ops::Range<usize> = 60..64;
const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// Counts a write transaction that has just begun.
pub(super) async fn count(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let row = sqlx::query("SELECT user_version AS count FROM pragma_user_version").fetch_one(&mut *connection).await?;
    // It has 32 bits, and begins anew behind them.
    #[allow(clippy::cast_possible_truncation)]
    let count = (row.try_get::<i64, _>("count")? as i32).wrapping_add(1);
    // Never prepared: each is another text.
    let set = sqlx::AssertSqlSafe(format!("PRAGMA user_version = {count}")).into_sql_str();
    connection.execute(set).await?;
    Ok(())
}

/// Makes sure that the log beside a file, if there is one, goes on from it. To be called before SQLite opens the file.
pub(super) fn check(file: &DatabaseFile) -> Result<(), StoreError> {
    let shown = || file.path().display().to_string();
    let open = |error: io::Error| StoreError::Open {
        url: shown(),
        reason: format!("its write-ahead log {} cannot be read: {error}", file.wal().display()),
    };
    let log = match File::open(file.wal()) {
        Ok(log) => log,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(open(error)),
    };
    let Some((first, last)) = counts(&log).map_err(open)? else { return Ok(()) };
    let mut header = [0; COUNT.end];
    // A file that is empty still has counted nothing.
    let _ = file.read_at(&mut header, 0);
    let own = number(&header[COUNT]);
    // Before the first count there was none.
    let before = if first == 0 { 0 } else { first.wrapping_sub(1) };
    if own.wrapping_sub(before) <= last.wrapping_sub(before) {
        return Ok(());
    }
    Err(StoreError::ForeignLog { database: shown(), log: file.wal().display().to_string() })
}

/// The first and the last count that a log has; none when it holds nothing that SQLite would replay.
fn counts(log: &File) -> io::Result<Option<(u32, u32)>> {
    let mut header = [0; HEADER];
    if !read(log, &mut header, 0)? || number(&header[..4]) & !1 != 0x377f_0682 {
        return Ok(None);
    }
    let (page, salts) = (u64::from(number(&header[8..12])), &header[16..24]);
    let (mut place, mut found, mut frame) = (HEADER as u64, None, [0; FRAME_HEADER]);
    // What lies behind the last frame is left over from before, with other salts.
    while read(log, &mut frame, place)? && frame[8..16] == *salts {
        if number(&frame[..4]) == 1 {
            let mut count = [0; 4];
            if !read(log, &mut count, place + (FRAME_HEADER + COUNT.start) as u64)? {
                break;
            }
            let count = number(&count);
            found = Some(found.map_or((count, count), |(first, _)| (first, count)));
        }
        place += FRAME_HEADER as u64 + page;
    }
    Ok(found)
}

/// False at the end of the file.
fn read(file: &File, bytes: &mut [u8], place: u64) -> io::Result<bool> {
    match file.read_exact_at(bytes, place) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// Keeps the log bounded.
///
/// SQLite copies the log into the file every 1,000 pages, and begins it anew when nobody reads it at that moment. Under
/// readers that follow each other without a gap that never happens, and after a long one (a backup) a large log stays.
#[derive(Debug, Default)]
pub(super) struct Bound(Option<Instant>);

impl Bound {
    /// Makes the log begin anew when it is larger than [`LIMIT`]. Waits for readers, for as long as the connection
    /// does; where one holds on, the next time will do.
    pub async fn keep(&mut self, file: &DatabaseFile, connection: &mut AnyConnection) {
        if file.wal_bytes() <= LIMIT || self.0.is_some_and(|last| last.elapsed() < PAUSE) {
            return;
        }
        self.0 = Some(Instant::now());
        if let Err(error) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").await {
            debug!(%error, "the write-ahead log cannot be truncated");
        }
    }
}
