//! nginx as Debian ships it: one file to download slowly, and a TCP stream proxy.

use std::net::SocketAddr;

use super::{Directory, free_port};

/// An nginx that has a configuration and is not started yet.
pub struct Nginx {
    directory: Directory,
    pub http_port: u16,
    pub stream_port: u16,
}

impl Nginx {
    /// `file` is what it serves, so many bytes a second to each client; its TCP streams go to `streams`.
    pub fn new(file: &[u8], bytes_per_second: usize, streams: SocketAddr) -> Self {
        let directory = Directory::new();
        directory.write("file", file);
        let root = directory.path().display().to_string();
        let [http_port, stream_port] = [free_port(), free_port()];
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let configuration = format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
             {user}
             daemon off;
             worker_processes 1;
             pid {root}/nginx.pid;
             error_log stderr notice;
             events {{ worker_connections 2048; }}
             http {{
               access_log off;
               client_body_temp_path {root}/body;
               proxy_temp_path {root}/proxy;
               fastcgi_temp_path {root}/fastcgi;
               uwsgi_temp_path {root}/uwsgi;
               scgi_temp_path {root}/scgi;
               server {{
                 listen 127.0.0.1:{http_port};
                 root {root};
                 limit_rate {bytes_per_second};
               }}
             }}
             stream {{
               server {{ listen 127.0.0.1:{stream_port}; proxy_pass {streams}; }}
             }}"
        );
        directory.write("nginx.conf", configuration);
        Nginx { directory, http_port, stream_port }
    }

    /// The command that starts it.
    pub fn command(&self) -> [String; 5] {
        let configuration = self.directory.path().join("nginx.conf");
        let configuration = configuration.to_str().expect("text").to_owned();
        ["nginx".into(), "-e".into(), "stderr".into(), "-c".into(), configuration]
    }
}
