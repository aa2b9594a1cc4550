//! A real HTTP server behind the plain leg: nginx with a static file and PUT, everything of its own in one
//! directory.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::tools::eventually;

pub struct Nginx {
    child: Child,
    pub addr: SocketAddr,
    root: PathBuf,
}

impl Nginx {
    /// Serves and stores files under `directory`/www.
    pub fn start(directory: &Path) -> Self {
        let root = directory.join("www");
        std::fs::create_dir_all(&root).expect("the root can be made");
        // nginx cannot be given port 0: the port is free when asked, and nothing else on loopback is likely
        // to take it.
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = free.local_addr().expect("a bound listener has an address");
        drop(free);
        let conf = directory.join("nginx.conf");
        std::fs::write(&conf, configuration(addr, directory)).expect("the configuration can be written");
        let mut command = Command::new("nginx");
        command.arg("-e").arg(directory.join("error.log")).arg("-p").arg(directory).arg("-c").arg(&conf);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("nginx runs");
        let nginx = Self { child, addr, root };
        eventually("nginx listens", || TcpStream::connect(addr).is_ok());
        nginx
    }

    /// Where the file of this name is stored.
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.root.with_file_name("error.log");
            eprintln!("--- nginx\n{}", std::fs::read_to_string(log).unwrap_or_default());
        }
    }
}

/// One process, so that ending the child ends it all.
fn configuration(addr: SocketAddr, directory: &Path) -> String {
    let d = directory.display();
    format!(
        "daemon off; master_process off; pid {d}/nginx.pid;
         events {{ worker_connections 512; }}
         http {{
           access_log off; sendfile on; keepalive_timeout 600s; client_body_timeout 600s; send_timeout 600s;
           client_max_body_size 0;
           client_body_temp_path {d}/body; proxy_temp_path {d}/proxy; fastcgi_temp_path {d}/fastcgi;
           uwsgi_temp_path {d}/uwsgi; scgi_temp_path {d}/scgi;
           server {{ listen {addr}; root {d}/www; dav_methods PUT; }}
         }}\n"
    )
}
