//! nginx from the system, in front of a server.
//!
//! Where it is not installed, the tests say so and end; in continuous integration that is a failure.

use std::{
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::{
    notice, postgres,
    process::{self, Signal},
    scratch, wait,
};

/// What `/etc/nginx/nginx.conf` of Debian has in its `http`, as far as it concerns what is passed on.
const DEBIAN: &str = "sendfile on;\ntcp_nopush on;\ntypes_hash_max_size 2048;\ngzip on;\n";

/// A proxy. Ends when it is dropped.
#[derive(Debug)]
pub struct Nginx {
    process: Child,
    port: u16,
    dir: TempDir,
}

impl Nginx {
    /// A proxy with these lines beside those of Debian in its `http`, made for the port that it listens on; none where `nginx`
    /// is not installed.
    pub fn start(lines: impl FnOnce(u16) -> String) -> Option<Self> {
        let program = notice::installed("nginx", "nginx", "the tests of proxies did nothing")?;
        let (dir, port) = (scratch::dir("nginx-"), postgres::free_port());
        let folder = dir.path().display();
        // One process, which is all there is to end.
        let text = format!(
            "daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\nhttp {{\n\
             access_log off;\nclient_body_temp_path {folder}/body;\nproxy_temp_path {folder}/proxy;\n\
             fastcgi_temp_path {folder}/fastcgi;\nuwsgi_temp_path {folder}/uwsgi;\nscgi_temp_path {folder}/scgi;\n\
             {DEBIAN}{}\n}}\n",
            lines(port)
        );
        let config = dir.path().join("nginx.conf");
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(program);
        command.arg("-c").arg(config).arg("-p").arg(dir.path()).arg("-e").arg(dir.path().join("error.log"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = process::spawn(command, Signal::KILL).unwrap();
        let mut nginx = Self { process, port, dir };
        wait::eventually_blocking("nginx takes connections", || {
            assert!(nginx.process.try_wait().unwrap().is_none(), "nginx has ended:\n{}", nginx.log());
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Some(nginx)
    }

    /// Where it listens: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What it complains about.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        process::signal(&self.process, Signal::KILL);
        let _ = self.process.wait();
        if std::thread::panicking() {
            println!("--- log of nginx\n{}---", self.log());
        }
    }
}
