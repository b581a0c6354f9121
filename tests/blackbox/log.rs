//! Nothing depends on who reads what the server writes: the log, its greeting, the output of commands.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader},
    net::TcpListener,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    process::Stdio,
    time::Duration,
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::json;

use crate::harness::{
    cli,
    client::Client,
    database::Database,
    metrics, plugins,
    process::{self, Signal},
    scratch,
    server::{Options, Server},
    wait,
};

/// Lines of the log that were lost.
const LOST: &str = "outlast_log_lines_lost_total";

/// A server whose standard error is this.
fn start(stderr: impl Into<OwnedFd>) -> Server {
    let folder = plugins::hostile_folder();
    Server::start(Options::new(Database::Sqlite).plugins(folder.path()).stderr(stderr))
}

/// A run that writes so many lines of so many bytes into the log; its status.
async fn logs(client: &Client, lines: usize, bytes: usize) -> String {
    let request = json!({"model": "hostile", "input": format!("log {lines} {bytes}")});
    client.post(request).await.response()["status"].as_str().unwrap().to_owned()
}

async fn stops(mut server: Server) {
    server.terminate();
    assert!(wait::within(Duration::from_secs(20), "the end", server.ended()).await.success());
}

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

#[tokio::test]
async fn a_reader_of_the_log_that_is_gone_stops_nothing() {
    let (reader, writer) = io::pipe().unwrap();
    let server = start(writer);
    let client = server.client();
    drop(reader);
    assert_eq!(logs(&client, 3, 100).await, "completed");
    metrics::eventually(&client, LOST, |lost| lost >= 3.0).await;
    assert_eq!(logs(&client, 3, 100).await, "completed");
    assert_eq!(client.get_path("/readyz").await.status, 200);
    stops(server).await;
}

#[tokio::test]
async fn a_log_on_a_full_disk_stops_nothing() {
    let server = start(full());
    let client = server.client();
    assert_eq!(logs(&client, 3, 100).await, "completed");
    metrics::eventually(&client, LOST, |lost| lost >= 3.0).await;
    stops(server).await;
}

#[tokio::test]
async fn a_terminal_that_is_closed_stops_nothing() {
    // A child that inherited it would keep it open.
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let path = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let inside = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path).unwrap();
    let server = start(inside);
    let client = server.client();
    drop(terminal);
    // What the kernel sends, too.
    server.hang_up();
    assert_eq!(logs(&client, 3, 100).await, "completed");
    metrics::eventually(&client, LOST, |lost| lost >= 3.0).await;
    stops(server).await;
}

#[tokio::test]
async fn a_reader_of_the_log_that_stands_still_stops_nothing_and_learns_what_it_has_missed() {
    let (reader, writer) = io::pipe().unwrap();
    let server = start(writer);
    let client = server.client();
    // Far more than the pipe and the queue take.
    for _ in 0..3 {
        assert_eq!(logs(&client, 1_000, 4_000).await, "completed");
    }
    let seen = metrics::eventually(&client, LOST, |lost| lost > 0.0).await.value(LOST);
    let read = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        lines.find(|line| line.contains("of the log were lost")).unwrap()
    });
    let line = wait::within(wait::PATIENCE, "the log tells of it", read).await.unwrap();
    assert!(line.contains(" WARN ") && seen > 0.0, "{line}");
    assert_eq!(logs(&client, 3, 100).await, "completed");
    stops(server).await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_reader_that_stands_still() {
    let (_reader, writer) = io::pipe().unwrap();
    let server = start(writer);
    assert_eq!(logs(&server.client(), 100, 4_000).await, "completed");
    stops(server).await;
}

#[tokio::test]
async fn a_pipe_that_does_not_block_loses_no_line_of_the_log() {
    let (reader, writer) = io::pipe().unwrap();
    rustix::io::ioctl_fionbio(writer.as_fd(), true).unwrap();
    let server = start(writer);
    let client = server.client();
    // Several times what the pipe takes, before anybody reads.
    assert_eq!(logs(&client, 300, 1_000).await, "completed");
    let read = tokio::task::spawn_blocking(move || {
        let lines = BufReader::new(reader).lines().map(Result::unwrap);
        lines.filter(|line| line.contains("xxxxxxxx") || line.len() > 1_000).take(300).count()
    });
    assert_eq!(wait::within(wait::PATIENCE, "all lines", read).await.unwrap(), 300);
    assert_eq!(metrics::metrics(&client).await.value(LOST), 0.0);
    stops(server).await;
}

#[tokio::test]
async fn a_greeting_that_cannot_be_printed_does_not_keep_the_server_from_serving() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let folder = scratch::dir("server-");
    let mut command = cli::command(["serve", "--listen", &address, "--database", "outlast.db"]);
    command.current_dir(folder.path()).stdout(full()).stderr(Stdio::null());
    let mut server = process::spawn(command, Signal::KILL).unwrap();
    let http = crate::harness::client::http();
    wait::eventually("the server serves", async || {
        assert!(server.try_wait().unwrap().is_none(), "it has ended");
        let answer = http.get(format!("http://{address}/readyz")).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    process::signal(&server, Signal::TERM);
    assert!(wait::eventually("it ends", async || server.try_wait().unwrap()).await.success());
}

#[test]
fn a_command_ends_quietly_when_nobody_reads_what_it_prints() {
    let server = Server::start(Database::Sqlite);
    let component = plugins::hostile();
    let component = component.to_str().unwrap();
    for (arguments, code) in [
        (vec!["key", "new", "ann"], 0),
        (vec!["runs", "list", "--url", server.url()], 0),
        (vec!["plugin", "check", component], 0),
        (vec!["plugin", "inspect", component], 0),
        (vec!["plugin", "run", component, "say hello"], 141),
        (vec!["--help"], 0),
    ] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = cli::command(&arguments).stdout(writer).spawn().unwrap().wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
}

#[test]
fn a_command_whose_output_is_lost_fails_and_says_so() {
    let output = cli::command(["key", "new", "ann"]).stdout(full()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("outlast: cannot write to standard output: "), "{said}");
    // Nobody reads that either.
    let output = cli::command(["key", "new", ""]).stderr(full()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
